//! Installing PostgreSQL with the system's own package manager, where we are root and it is missing.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// What to do where it can't be installed from here.
pub(super) const ADVICE: &str = "install it (`apt-get install postgresql`, `dnf install \
     postgresql-server`, `apk add postgresql`, `brew install postgresql@17`), or set \
     WATCHWORK_PG_BIN to the folder of its server programs";

/// Debian makes and starts a server of its own for each version that is installed, unless this file
/// says no.
const DEBIAN_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";
/// What the package puts beside it, because the file is there already.
const DEBIAN_DEFAULTS: &str = "/etc/postgresql-common/createcluster.conf.ucf-dist";

/// Installs the PostgreSQL server; no service of it is set up or started.
///
/// # Errors
/// We are not root, there is no package manager that we know, or it fails.
pub(super) fn postgresql() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "no PostgreSQL server (postgres, initdb) was found, and only root could install it: \
         {ADVICE}"
    );
    if on_path("apt-get") {
        say("apt-get");
        with_apt()
    } else if on_path("dnf") {
        say("dnf");
        run("dnf", &["install", "-y", "postgresql-server"])
    } else if on_path("apk") {
        say("apk");
        run("apk", &["add", "postgresql"])
    } else {
        bail!("no PostgreSQL server was found, nor a package manager to install it: {ADVICE}")
    }
}

fn say(manager: &str) {
    eprintln!("PostgreSQL is not installed: installing it with {manager} …");
}

fn with_apt() -> Result<()> {
    let ours = !Path::new(DEBIAN_SETTINGS).exists();
    if ours {
        fs::create_dir_all("/etc/postgresql-common")?;
        fs::write(DEBIAN_SETTINGS, "create_main_cluster = false\n")?;
    }
    let installed = run("apt-get", &["update"]).and_then(|()| {
        run(
            "apt-get",
            &["install", "-y", "--no-install-recommends", "postgresql"],
        )
    });
    if ours {
        // The machine's owner gets what the package would have given.
        fs::rename(DEBIAN_DEFAULTS, DEBIAN_SETTINGS)
            .or_else(|_| fs::remove_file(DEBIAN_SETTINGS))
            .with_context(|| format!("can't restore {DEBIAN_SETTINGS}"))?;
    }
    installed
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("UCF_FORCE_CONFFOLD", "1")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run {program}"))?;
    ensure!(
        output.status.success(),
        "`{program} {}` failed ({}):\n{}{}\nIf it can't be helped: {ADVICE}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
