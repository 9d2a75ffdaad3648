//! A client in another language, made from the files in `proto/` and nothing else of ours.

use std::env;
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::Rig;
use tempfile::TempDir;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/other_language");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");

#[tokio::test(flavor = "multi_thread")]
async fn a_client_made_from_the_proto_files_in_python_submits_watches_and_gets() -> Result<()> {
    let python = match python_with_grpc() {
        Ok(python) => python,
        Err(why) => {
            // Written past the capture of tests' output: nobody shall take this for a success.
            writeln!(
                stderr(),
                "\n*** SKIPPED: the client in Python could not be tried: {why:#}\n"
            )?;
            return Ok(());
        }
    };
    let generated = generate(&python)?;
    let rig = Rig::start(|_| {}).await?;
    let address = rig.cluster.gateway_url().context("a gateway")?;
    let mut client = Command::new(&python);
    client
        .arg(Path::new(HERE).join("client.py"))
        .args([address.trim_start_matches("http://"), rig.cluster.key()])
        .env("PYTHONPATH", generated.path())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    run(client)?;
    rig.stop().await
}

/// The Python of an environment in `target/` that has the packages of `requirements.txt`; it is made
/// the first time.
fn python_with_grpc() -> Result<PathBuf> {
    let us = env::current_exe()?;
    let target = us
        .ancestors()
        .nth(3)
        .context("this test is not in a target folder")?;
    let environment = target.join("python-client");
    let python = environment.join("bin").join("python3");
    let requirements = Path::new(HERE).join("requirements.txt");
    let installed = environment.join("installed-requirements.txt");
    let wanted = fs::read(&requirements)?;
    if fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    run(make)?;
    let mut install = Command::new(&python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--only-binary=:all:", "--requirement"])
        .arg(&requirements);
    run(install)?;
    fs::write(&installed, wanted)?;
    Ok(python)
}

/// The client API's Python code.
fn generate(python: &Path) -> Result<TempDir> {
    let generated = tempfile::tempdir()?;
    let mut generate = Command::new(python);
    generate
        .args(["-m", "grpc_tools.protoc", "--proto_path", PROTO])
        .arg(format!("--python_out={}", generated.path().display()))
        .arg(format!("--grpc_python_out={}", generated.path().display()))
        .args(["watchwork/v1/common.proto", "watchwork/v1/executions.proto"]);
    run(generate)?;
    Ok(generated)
}

fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let ended = command
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    ensure!(
        ended.status.success(),
        "{} ended with {}: {}{}",
        program.display(),
        ended.status,
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}
