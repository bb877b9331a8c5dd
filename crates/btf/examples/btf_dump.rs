//! Dumps a raw `.BTF` file: `cargo run -p skep-btf --example btf_dump -- raw|c FILE`.
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (format, path) = (args.next().ok_or("raw or c?")?, args.next().ok_or("which file?")?);
    let btf = skep_btf::Btf::parse(&std::fs::read(path)?)?;
    let text = match format.as_str() {
        "c" => skep_btf::dump::c_dump(&btf)?,
        "check" => format!("{:?}\n", btf.check(skep_btf::Rules::Kernel)),
        _ => skep_btf::dump::raw_dump(&btf),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
