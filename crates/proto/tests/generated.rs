//! The generated code is checked in; this keeps it honest. `make proto` rewrites it.

use std::path::{Path, PathBuf};

const FILES: [&str; 5] = [
    "watchwork/v1/common.proto",
    "watchwork/v1/executions.proto",
    "watchwork/v1/fleet.proto",
    "watchwork/v1/workers.proto",
    "watchwork/internal/v1/scheduler.proto",
];

fn generate(into: &Path) {
    let protos = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let descriptors = protox::compile(FILES, [&protos]).expect("the proto files compile");
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(into)
        .compile_fds(descriptors)
        .expect("code is generated");
}

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    if std::env::var_os("WATCHWORK_WRITE_PROTO").is_some() {
        return generate(&committed);
    }
    let fresh = tempfile::tempdir().expect("a temporary directory");
    generate(fresh.path());
    for package in ["watchwork.v1.rs", "watchwork.internal.v1.rs"] {
        let want = std::fs::read_to_string(fresh.path().join(package)).expect("generated");
        let have = std::fs::read_to_string(committed.join(package)).unwrap_or_default();
        assert!(
            want == have,
            "{package} is stale: run `make proto` and commit the result"
        );
    }
}
