//! Prints a skeleton: `cargo run -p skep-skel --example gen_skeleton -- FILE [types]`.
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file?")?;
    let define_types = args.next().is_some();
    let elf = std::fs::read(&path)?;
    let name = skep_skel::object_ident(&path);
    let object = skep_object::parse(&elf, &name)?;
    let text = skep_skel::c_skeleton(&object, &elf, &name, &skep_skel::COptions { define_types })?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
