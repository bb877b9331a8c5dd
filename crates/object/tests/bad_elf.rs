//! The ELF rows of the project's table of bad input: each is refused, naming the field or section and the offset.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use skep_object::{Error, parse};
use support::{Elf, GLOBAL_FUNC, GLOBAL_OBJECT, LOCAL_FUNC, NOBITS, PROGBITS, RETURN_0, insn};

fn good() -> Vec<u8> {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.build()
}

fn with(at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = good();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let text = parse(bytes, "x").unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn the_unchanged_file_is_good() {
    let spec = parse(&good(), "dir/some.bpf.o").unwrap();
    assert_eq!((spec.name.as_str(), spec.programs.len()), ("some", 1));
    assert_eq!(spec.programs[0].insns.len(), 2);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = good();
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len], "x").is_err(), "{len} of {} bytes were accepted", bytes.len());
    }
    let bytes = support::committed("data");
    for len in (0..bytes.len()).step_by(7) {
        assert!(parse(&bytes[..len], "x").is_err(), "{len} of {} bytes were accepted", bytes.len());
    }
}

#[test]
fn not_an_elf_file() {
    refused(b"", &["e_ident[EI_MAG]", "0x0"]);
    refused(b"#!/bin/sh\n", &["\\x7fELF"]);
}

#[test]
fn elf_32_bit_is_refused() {
    refused(&with(4, &[1]), &["e_ident[EI_CLASS]", "offset 0x4", "32-bit"]);
}

#[test]
fn elf_big_endian_is_refused() {
    refused(&with(5, &[2]), &["e_ident[EI_DATA]", "offset 0x5", "big-endian"]);
}

#[test]
fn other_machine_is_refused() {
    refused(&with(18, &62u16.to_le_bytes()), &["e_machine", "offset 0x12", "machine 62"]);
}

#[test]
fn executables_are_refused() {
    refused(&with(16, &2u16.to_le_bytes()), &["e_type", "offset 0x10"]);
}

#[test]
fn section_header_table_outside_the_file_is_refused() {
    for shoff in [u64::MAX, u64::MAX - 63, 1 << 40, 0] {
        refused(&with(40, &shoff.to_le_bytes()), &["e_shoff", "offset 0x28"]);
    }
    refused(&with(60, &u16::MAX.to_le_bytes()), &["e_shoff"]);
    refused(&with(58, &40u16.to_le_bytes()), &["e_shentsize"]);
    refused(&with(62, &99u16.to_le_bytes()), &["e_shstrndx"]);
}

#[test]
fn section_sizes_that_overflow_are_refused() {
    let bytes = good();
    let shoff = usize::try_from(u64::from_le_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    for (offset, size) in [(u64::MAX, 16), (64, u64::MAX), (64, u64::MAX - 63), (1 << 40, 1)] {
        let mut bytes = bytes.clone();
        let header = shoff + 64;
        bytes[header + 24..header + 32].copy_from_slice(&offset.to_le_bytes());
        bytes[header + 32..header + 40].copy_from_slice(&size.to_le_bytes());
        refused(&bytes, &["sh_offset", "end outside the file"]);
    }
}

#[test]
fn thousands_of_headers_over_the_same_bytes_are_refused() {
    // 20000 data sections of the same 64 KiB would be 1.3 GB of images.
    let mut bytes = good();
    bytes.truncate(64);
    let names = bytes.len();
    bytes.extend_from_slice(b"\0.data.x\0");
    let data = bytes.len();
    bytes.extend_from_slice(&vec![1; 64 << 10]);
    let shoff = bytes.len();
    let header = |name: u32, kind: u32, offset: usize, size: usize| {
        let mut h = vec![0u8; 64];
        h[..4].copy_from_slice(&name.to_le_bytes());
        h[4..8].copy_from_slice(&kind.to_le_bytes());
        h[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        h[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        h
    };
    bytes.extend_from_slice(&[0; 64]);
    bytes.extend_from_slice(&header(0, 3, names, 9));
    for _ in 0..20_000 {
        bytes.extend_from_slice(&header(1, PROGBITS, data, 64 << 10));
    }
    bytes[40..48].copy_from_slice(&(shoff as u64).to_le_bytes());
    bytes[60..62].copy_from_slice(&20_002u16.to_le_bytes());
    bytes[62..64].copy_from_slice(&1u16.to_le_bytes());
    refused(&bytes, &["sh_offset", "overlaps"]);
}

#[test]
fn partly_overlapping_sections_are_refused() {
    let mut bytes = good();
    let shoff = usize::try_from(u64::from_le_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    // The code section reaches one byte into the symbol table.
    bytes[shoff + 64 + 32..shoff + 64 + 40].copy_from_slice(&17u64.to_le_bytes());
    refused(&bytes, &["sh_offset", "overlaps"]);
}

#[test]
fn unterminated_section_names_are_refused() {
    let bytes = good();
    let at = bytes.windows(10).position(|w| w == b".shstrtab\0").unwrap() + 9;
    let mut bytes = bytes;
    bytes[at] = b'x';
    refused(&bytes, &["sh_name", "not terminated"]);
}

#[test]
fn unterminated_symbol_names_are_refused() {
    let mut bytes = good();
    let at = bytes.windows(6).position(|w| w == b"\0prog\0").unwrap() + 5;
    bytes[at] = b'x';
    refused(&bytes, &[".symtab", "not terminated"]);
}

#[test]
fn very_long_names_are_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", &"n".repeat(5000), &RETURN_0);
    refused(&elf.build(), &["longer than"]);
}

#[test]
fn symbols_of_sections_that_do_not_exist_are_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.symbol("lost", GLOBAL_OBJECT, 77, 0, 0);
    refused(&elf.build(), &[".symtab", "lost", "section 77"]);
}

#[test]
fn duplicate_symbols_are_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.program("tc", "prog", &RETURN_0);
    refused(&elf.build(), &[".symtab", "offset 0x30", "prog is defined twice"]);
}

#[test]
fn overlapping_functions_are_refused() {
    let mut elf = Elf::new();
    let index = elf.program("xdp", "prog", &RETURN_0);
    elf.symbol("alias", GLOBAL_FUNC, index, 8, 8);
    refused(&elf.build(), &["section xdp", "offset 0x8", "overlaps"]);
}

#[test]
fn text_that_is_no_multiple_of_8_is_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0[..12]);
    refused(&elf.build(), &["section xdp", "12 bytes of code are no multiple of 8"]);
}

#[test]
fn functions_outside_their_section_are_refused() {
    for (value, size, why) in [
        (0, 24, "ends outside"),
        (8, u64::MAX - 7, "ends outside"),
        (4, 8, "no whole instructions"),
        (0, 9, "no whole instructions"),
        (0, 0, "size 0"),
    ] {
        let mut elf = Elf::new();
        let index = elf.section("xdp", PROGBITS, 6, &RETURN_0);
        elf.symbol("prog", GLOBAL_FUNC, index, value, size);
        refused(&elf.build(), &["section xdp", why]);
    }
}

#[test]
fn ld_imm64_cut_in_half_is_refused() {
    let mut elf = Elf::new();
    let code = [insn(0xb7, 0, 0, 0), insn(0x18, 0, 0, 1)].concat();
    elf.program("xdp", "prog", &code);
    refused(&elf.build(), &["section xdp", "offset 0x8", "cut in half"]);
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &[insn(0x18, 0, 0, 1), insn(0x95, 0, 0, 0)].concat());
    refused(&elf.build(), &["offset 0x0", "cut in half"]);
}

#[test]
fn jump_into_ld_imm64_is_refused() {
    let wide = [insn(0x18, 0, 0, 1), insn(0, 0, 0, 0), insn(0x95, 0, 0, 0)].concat();
    for jump in [insn(0x05, 0, 1, 0), insn(0x06, 0, 0, 1), insn(0x15, 1, 1, 0), insn(0x1d, 0x21, 1, 0)] {
        let mut elf = Elf::new();
        elf.program("xdp", "prog", &[&jump[..], &wide].concat());
        refused(&elf.build(), &["section xdp", "offset 0x0", "into the middle of an ld_imm64"]);
    }
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &[&wide[..], &insn(0x05, 0, -3, 0)].concat());
    refused(&elf.build(), &["offset 0x18", "into the middle"]);
}

#[test]
fn legacy_maps_are_refused_with_a_way_out() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.section("maps", PROGBITS, 3, &[0; 20]);
    refused(&elf.build(), &["section maps", "not supported", "SEC(\".maps\")"]);
}

#[test]
fn struct_ops_are_refused_with_a_sentence() {
    for name in [".struct_ops", ".struct_ops.link"] {
        let mut elf = Elf::new();
        elf.program("xdp", "prog", &RETURN_0);
        elf.section(name, PROGBITS, 3, &[0; 8]);
        let error = parse(&elf.build(), "x").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

#[test]
fn globals_of_an_arena_need_an_arena() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.section(".addr_space.1", PROGBITS, 3, &[0; 8]);
    refused(&elf.build(), &["section .addr_space.1", "no arena is defined"]);
}

#[test]
fn version_of_another_size_is_refused() {
    let mut elf = Elf::new();
    elf.section("version", PROGBITS, 3, &[0; 8]);
    refused(&elf.build(), &["section version", "8 bytes"]);
}

#[test]
fn huge_bss_costs_no_memory_and_too_huge_is_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.section(".bss", NOBITS, 3, &[]);
    elf.sections[1].size = Some(1 << 30);
    let spec = parse(&elf.build(), "x").unwrap();
    assert_eq!((spec.maps[0].value_size, spec.maps[0].image.len()), (1 << 30, 0));
    elf.sections[1].size = Some(u64::MAX);
    refused(&elf.build(), &["section .bss", "bytes of data"]);
}

#[test]
fn one_function_in_many_programs_is_capped() {
    // 400 programs that each reach the same 40000 instructions would be 16 million linked ones.
    let mut elf = Elf::new();
    let mut body = insn(0xb7, 0, 0, 0).repeat(40_000);
    body.extend_from_slice(&insn(0x95, 0, 0, 0));
    let text = elf.section(".text", PROGBITS, 6, &body);
    let target = elf.symbol("big", LOCAL_FUNC, text, 0, body.len() as u64);
    let one = [insn(0x85, 0x10, 0, -1), insn(0x95, 0, 0, 0)].concat();
    let index = elf.section("xdp", PROGBITS, 6, &one.repeat(400));
    for at in 0..400u64 {
        elf.symbol(&format!("p{at}"), GLOBAL_FUNC, index, at * 16, 16);
    }
    let list: Vec<_> = (0..400u64).map(|at| (at * 16, target, 10)).collect();
    elf.relocations(index, &list);
    let error = parse(&elf.build(), "x").unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn errors_escape_what_they_quote() {
    let mut elf = Elf::new();
    elf.program("xdp\u{1b}[31m", "prog", &RETURN_0[..12]);
    let text = parse(&elf.build(), "x").unwrap_err().to_string();
    assert!(!text.contains('\u{1b}') && text.contains("\\x1b"), "{text:?}");
}
