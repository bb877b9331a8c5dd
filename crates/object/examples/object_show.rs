//! Shows what an object holds: `cargo run -p skep-object --example object_show -- FILE`.
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for path in std::env::args().skip(1) {
        let mut object = skep_object::parse(&std::fs::read(&path)?, &path)?;
        object.btf = None;
        writeln!(out, "{path}: {object:#?}")?;
    }
    Ok(())
}
