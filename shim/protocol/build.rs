//! Generates the protocol's messages from `proto/`, in Rust alone (no `protoc`), into the build directory.

fn main() {
    let files = ["proto/control.proto", "proto/ttrpc.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    protobuf_codegen::Codegen::new().pure().include("proto").inputs(files).cargo_out_dir("messages").run_from_script();
}
