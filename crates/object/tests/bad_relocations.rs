//! The relocation rows of the project's table of bad input: refused with section and offset.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use skep_object::spec::NO_MAP;
use skep_object::{Error, parse};
use support::{Elf, GLOBAL_NOTYPE, LOCAL_FUNC, LOCAL_SECTION, PROGBITS, RETURN_0, WEAK_NOTYPE, insn};

const R_64_64: u32 = 1;
const R_64_32: u32 = 10;

/// `r1 = <symbol> ll; exit`.
fn address() -> Vec<u8> {
    [insn(0x18, 1, 0, 0), insn(0, 0, 0, 0), insn(0xb7, 0, 0, 0), insn(0x95, 0, 0, 0)].concat()
}

/// `call <symbol>; exit`.
fn call() -> Vec<u8> {
    [insn(0x85, 0x10, 0, -1), insn(0x95, 0, 0, 0)].concat()
}

/// A program with one relocation of the symbol that `symbol` adds.
fn object(code: &[u8], at: u64, kind: u32, symbol: impl FnOnce(&mut Elf) -> u32) -> Vec<u8> {
    let mut elf = Elf::new();
    let index = elf.program("xdp", "prog", code);
    let symbol = symbol(&mut elf);
    elf.relocations(index, &[(at, symbol, kind)]);
    elf.build()
}

fn data(elf: &mut Elf) -> u32 {
    let index = elf.section(".data", PROGBITS, 3, &[1; 16]);
    elf.symbol("variable", 0x11, index, 8, 8)
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let text = parse(bytes, "x").unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn a_good_one_gives_map_and_offset() {
    let spec = parse(&object(&address(), 0, R_64_64, data), "x").unwrap();
    let insns = &spec.programs[0].insns;
    assert_eq!((insns[0].src, insns[0].imm, insns[1].imm), (2, 0, 8));
}

#[test]
fn offset_unaligned_is_refused() {
    refused(&object(&address(), 4, R_64_64, data), &["section xdp", "offset 0x4", "not that of an instruction"]);
}

#[test]
fn offset_outside_is_refused() {
    for offset in [32, 1 << 40, u64::MAX - 7] {
        refused(&object(&address(), offset, R_64_64, data), &["section xdp", "outside the section"]);
    }
}

#[test]
fn unknown_type_is_refused() {
    for kind in [0, 2, 3, 4, 99] {
        refused(&object(&address(), 0, kind, data), &["section xdp", "offset 0x0", "unknown type"]);
    }
}

#[test]
fn symbol_that_does_not_exist_is_refused() {
    refused(&object(&address(), 0, R_64_64, |_| 99), &["there is no symbol 99"]);
}

#[test]
fn undefined_extern_is_refused() {
    let undefined = |elf: &mut Elf| elf.symbol("nowhere", GLOBAL_NOTYPE, 0, 0, 0);
    refused(&object(&address(), 0, R_64_64, undefined), &["section xdp", "offset 0x0", "undefined extern nowhere"]);
    refused(&object(&call(), 0, R_64_32, undefined), &["section xdp", "offset 0x0", "undefined extern nowhere"]);
}

#[test]
fn weak_extern_is_zero() {
    let weak = |elf: &mut Elf| elf.symbol("nowhere", WEAK_NOTYPE, 0, 0, 0);
    let spec = parse(&object(&address(), 0, R_64_64, weak), "x").unwrap();
    let insns = &spec.programs[0].insns;
    assert_eq!((insns[0].src, insns[0].imm, insns[1].imm), (0, 0, 0));
}

#[test]
fn call_of_a_non_function_is_refused() {
    refused(&object(&call(), 0, R_64_32, data), &["section xdp", "offset 0x0", "no function starts"]);
    let middle = |elf: &mut Elf| {
        let index = elf.section(".text", PROGBITS, 6, &RETURN_0);
        elf.symbol("f", LOCAL_FUNC, index, 0, 16);
        elf.symbol("", LOCAL_SECTION, index, 8, 0)
    };
    refused(&object(&call(), 0, R_64_32, middle), &["no function starts"]);
}

#[test]
fn local_call_of_a_non_function_is_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &[insn(0x85, 0x10, 0, 0), insn(0x95, 0, 0, 0)].concat());
    refused(&elf.build(), &["section xdp", "offset 0x0", "call of what is no function"]);
}

#[test]
fn relocation_of_an_instruction_that_takes_none_is_refused() {
    refused(&object(&RETURN_0, 0, R_64_64, data), &["section xdp", "code 0xb7"]);
    refused(&object(&address(), 8, R_64_64, data), &["offset 0x8", "code 0x00"]);
    let helper = [insn(0x85, 0, 0, 1), insn(0x95, 0, 0, 0)].concat();
    refused(&object(&helper, 0, R_64_32, data), &["a call of kind 0 takes none"]);
}

#[test]
fn two_relocations_of_one_instruction_are_refused() {
    let mut elf = Elf::new();
    let index = elf.program("xdp", "prog", &address());
    let symbol = data(&mut elf);
    elf.relocations(index, &[(0, symbol, R_64_64), (0, symbol, R_64_64)]);
    refused(&elf.build(), &["section xdp", "two relocations"]);
}

#[test]
fn map_reference_without_a_relocation_leads_to_no_map() {
    for src in [1u8, 2] {
        let mut elf = Elf::new();
        let code = [insn(0x18, src << 4 | 1, 0, 7), insn(0, 0, 0, 0), insn(0x95, 0, 0, 0)].concat();
        elf.program("xdp", "prog", &code);
        let spec = parse(&elf.build(), "x").unwrap();
        assert_eq!((spec.programs[0].insns[0].src, spec.programs[0].insns[0].imm), (1, NO_MAP));
    }
}

#[test]
fn other_reference_without_a_relocation_is_refused() {
    for src in [3u8, 5, 6] {
        let mut elf = Elf::new();
        let code = [insn(0x18, src << 4 | 1, 0, 7), insn(0, 0, 0, 0), insn(0x95, 0, 0, 0)].concat();
        elf.program("xdp", "prog", &code);
        refused(&elf.build(), &["section xdp", &format!("ld_imm64 of kind {src} without a relocation")]);
    }
}

#[test]
fn kernel_function_call_without_a_relocation_is_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &[insn(0x85, 0x20, 0, 7), insn(0x95, 0, 0, 0)].concat());
    refused(&elf.build(), &["section xdp", "a kernel function is called without a relocation"]);
}

#[test]
fn address_in_a_section_that_is_not_loaded_is_refused() {
    let debug = |elf: &mut Elf| {
        let index = elf.section(".debug_str", PROGBITS, 0, &[1; 16]);
        elf.symbol("text", 0x11, index, 0, 8)
    };
    refused(&object(&address(), 0, R_64_64, debug), &["section xdp", ".debug_str", "not loaded"]);
}

#[test]
fn offset_before_the_start_is_refused() {
    let mut code = address();
    code[4..8].copy_from_slice(&(-9i32).to_le_bytes());
    refused(&object(&code, 0, R_64_64, data), &["before the start of variable"]);
}

#[test]
fn table_of_half_entries_is_refused() {
    let mut elf = Elf::new();
    let index = elf.program("xdp", "prog", &address());
    let symbol = data(&mut elf);
    elf.relocations(index, &[(0, symbol, R_64_64)]);
    elf.sections.last_mut().unwrap().data.truncate(15);
    refused(&elf.build(), &["section .rel", "no whole number of relocation entries"]);
}

#[test]
fn rela_is_refused() {
    let mut elf = Elf::new();
    let index = elf.program("xdp", "prog", &address());
    let symbol = data(&mut elf);
    elf.relocations(index, &[(0, symbol, R_64_64)]);
    elf.sections.last_mut().unwrap().kind = 4;
    let error = parse(&elf.build(), "x").unwrap_err();
    assert!(matches!(error, Error::Section { .. }) && error.to_string().contains("SHT_RELA"), "{error}");
}
