//! A client in another language, made from the files in `proto/` and nothing else of ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use e2e::{Rig, python_with, run_to_end, say_skipped};
use tempfile::TempDir;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/other_language");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");

#[tokio::test(flavor = "multi_thread")]
async fn a_client_made_from_the_proto_files_in_python_submits_watches_and_gets() -> Result<()> {
    let requirements = fs::read_to_string(Path::new(HERE).join("requirements.txt"))?;
    let python = match python_with("client", &requirements) {
        Ok(python) => python,
        Err(why) => return say_skipped("the client in Python", &why),
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
    run_to_end(client)?;
    rig.stop().await
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
    run_to_end(generate)?;
    Ok(generated)
}
