//! Prints a skeleton: `cargo run -p skep-skel --example gen_skeleton -- c|c-types|rust FILE`.
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let language = args.next().ok_or("c, c-types or rust?")?;
    let path = args.next().ok_or("which file?")?;
    let elf = std::fs::read(&path)?;
    let name = skep_skel::object_ident(&path);
    let object = skep_object::parse(&elf, &name)?;
    let text = if language == "rust" {
        skep_skel::rust_skeleton(&object, &elf, &name)?
    } else {
        skep_skel::c_skeleton(&object, &elf, &name, &skep_skel::COptions { define_types: language == "c-types" })?
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
