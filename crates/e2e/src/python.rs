//! Python for tests that need some of its packages.

use std::env;
use std::fs;
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The Python of an environment in `target/` that has these packages, said as in a `requirements.txt`; it
/// is made the first time, and anew when other ones are wanted.
///
/// # Errors
/// There is no Python here, or the packages can't be had.
pub fn python_with(name: &str, requirements: &str) -> Result<PathBuf> {
    let us = env::current_exe()?;
    let target = us
        .ancestors()
        .nth(3)
        .context("this test is not in a target folder")?;
    let environment = target.join(format!("python-{name}"));
    let python = environment.join("bin").join("python3");
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|there| there == requirements) {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    run_to_end(make)?;
    let wanted = environment.join("wanted.txt");
    fs::write(&wanted, requirements)?;
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .arg("--requirement")
        .arg(&wanted);
    run_to_end(install)?;
    fs::rename(&wanted, &installed)?;
    Ok(python)
}

/// Runs a program to its end.
///
/// # Errors
/// It can't be run or fails; the error holds what it said.
pub fn run_to_end(mut command: Command) -> Result<()> {
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

/// Says that something could not be tried here, past the capture of tests' output: nobody shall take this
/// for a success.
///
/// # Errors
/// It can't be said.
pub fn say_skipped(what: &str, why: &anyhow::Error) -> Result<()> {
    let why = format!("\n*** SKIPPED: {what} could not be tried: {why:#}\n");
    Ok(writeln!(stderr(), "{why}")?)
}
