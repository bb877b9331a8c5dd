//! Writes small ELF files, right ones and wrong ones.
#![allow(dead_code, reason = "each test binary uses another part")]

/// A section to write.
#[derive(Clone)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) data: Vec<u8>,
    /// Size in the header where it is not the data's (`SHT_NOBITS`).
    pub(crate) size: Option<u64>,
    pub(crate) info: u32,
}

/// A symbol to write: `section` counts from 1 in the order the sections were added.
#[derive(Clone)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    pub(crate) info: u8,
    pub(crate) other: u8,
    pub(crate) section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

pub(crate) const PROGBITS: u32 = 1;
pub(crate) const NOBITS: u32 = 8;
pub(crate) const REL: u32 = 9;
pub(crate) const GLOBAL_FUNC: u8 = 0x12;
pub(crate) const LOCAL_FUNC: u8 = 0x02;
pub(crate) const GLOBAL_OBJECT: u8 = 0x11;
pub(crate) const GLOBAL_NOTYPE: u8 = 0x10;
pub(crate) const WEAK_NOTYPE: u8 = 0x20;
pub(crate) const LOCAL_SECTION: u8 = 0x03;

/// The file in the making.
#[derive(Clone, Default)]
pub(crate) struct Elf {
    pub(crate) sections: Vec<Section>,
    pub(crate) symbols: Vec<Symbol>,
}

/// `r0 = 0; exit`.
pub(crate) const RETURN_0: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// One instruction.
pub(crate) fn insn(code: u8, regs: u8, off: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, regs, o[0], o[1], i[0], i[1], i[2], i[3]]
}

impl Elf {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a section; its index.
    pub(crate) fn section(&mut self, name: &str, kind: u32, flags: u64, data: &[u8]) -> u16 {
        self.sections.push(Section { name: name.into(), kind, flags, data: data.to_vec(), size: None, info: 0 });
        u16::try_from(self.sections.len()).expect("few sections")
    }

    /// Adds executable code with one global function over all of it; the section's index.
    pub(crate) fn program(&mut self, section: &str, name: &str, code: &[u8]) -> u16 {
        let index = self.section(section, PROGBITS, 6, code);
        self.symbol(name, GLOBAL_FUNC, index, 0, code.len() as u64);
        index
    }

    /// Adds a symbol; its index.
    pub(crate) fn symbol(&mut self, name: &str, info: u8, section: u16, value: u64, size: u64) -> u32 {
        self.symbols.push(Symbol { name: name.into(), info, other: 0, section, value, size });
        u32::try_from(self.symbols.len()).expect("few symbols")
    }

    /// Adds relocations (offset, symbol, type) of a section.
    pub(crate) fn relocations(&mut self, target: u16, list: &[(u64, u32, u32)]) -> u16 {
        let mut data = Vec::new();
        for &(offset, symbol, kind) in list {
            data.extend_from_slice(&offset.to_le_bytes());
            data.extend_from_slice(&(u64::from(symbol) << 32 | u64::from(kind)).to_le_bytes());
        }
        let index = self.section(".rel", REL, 0, &data);
        self.sections.last_mut().expect("just added").info = u32::from(target);
        index
    }

    /// The file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut names = vec![0u8];
        let mut strings = vec![0u8];
        let add = |table: &mut Vec<u8>, text: &str| {
            let at = u32::try_from(table.len()).expect("small");
            table.extend_from_slice(text.as_bytes());
            table.push(0);
            at
        };
        let mut symtab = vec![0u8; 24];
        for s in &self.symbols {
            symtab.extend_from_slice(&add(&mut strings, &s.name).to_le_bytes());
            symtab.extend_from_slice(&[s.info, s.other]);
            symtab.extend_from_slice(&s.section.to_le_bytes());
            symtab.extend_from_slice(&s.value.to_le_bytes());
            symtab.extend_from_slice(&s.size.to_le_bytes());
        }
        let own = u32::try_from(self.sections.len()).expect("small");
        let mut all: Vec<(Section, u32, u64)> =
            self.sections.iter().map(|s| (s.clone(), if s.kind == REL { own + 1 } else { 0 }, 16)).collect();
        let table =
            |name: &str, kind, data: Vec<u8>| Section { name: name.into(), kind, flags: 0, data, size: None, info: 0 };
        all.push((table(".symtab", 2, symtab), own + 2, 24));
        all.push((table(".strtab", 3, strings), 0, 0));
        let name_offsets: Vec<u32> = all.iter().map(|(s, ..)| add(&mut names, &s.name)).collect();
        let own_name = add(&mut names, ".shstrtab");
        all.push((table(".shstrtab", 3, names), 0, 0));
        let mut out = vec![0u8; 64];
        let mut headers = vec![0u8; 64];
        for (at, (s, link, entsize)) in all.iter().enumerate() {
            let offset = out.len() as u64;
            if s.kind != NOBITS {
                out.extend_from_slice(&s.data);
            }
            headers.extend_from_slice(&name_offsets.get(at).unwrap_or(&own_name).to_le_bytes());
            headers.extend_from_slice(&s.kind.to_le_bytes());
            for word in [s.flags, 0, offset, s.size.unwrap_or(s.data.len() as u64)] {
                headers.extend_from_slice(&word.to_le_bytes());
            }
            headers.extend_from_slice(&link.to_le_bytes());
            headers.extend_from_slice(&s.info.to_le_bytes());
            for word in [8, *entsize] {
                headers.extend_from_slice(&word.to_le_bytes());
            }
        }
        let shoff = out.len() as u64;
        out.extend_from_slice(&headers);
        out[..16].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out[16..18].copy_from_slice(&1u16.to_le_bytes());
        out[18..20].copy_from_slice(&247u16.to_le_bytes());
        out[20..24].copy_from_slice(&1u32.to_le_bytes());
        out[40..48].copy_from_slice(&shoff.to_le_bytes());
        out[52..54].copy_from_slice(&64u16.to_le_bytes());
        out[58..60].copy_from_slice(&64u16.to_le_bytes());
        let count = u16::try_from(all.len() + 1).expect("small");
        out[60..62].copy_from_slice(&count.to_le_bytes());
        out[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        out
    }
}

/// Reads a committed object.
pub(crate) fn committed(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/c/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).expect(&path)
}
