//! Where an instruction comes from: function, file, line, and the lines around it.
//!
//! Owns the reading of line information. Invariant: a line is shown only with the text that the object carries for it; lines
//! without code have none and are left out. Kernel counterpart: `bpf_find_linfo`, kernel/bpf/log.c, 6.18.

use skep_btf::LineInfo;

use crate::env::Env;
use crate::verified::InsnIdx;

/// Lines shown before and after the failing one.
const CONTEXT: u32 = 2;

/// An instruction, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its slot.
    pub insn: InsnIdx,
    /// Its text, as in the log.
    pub instruction: String,
    /// The function that it belongs to.
    pub function: String,
    /// Its source line, where the object has line information.
    pub source: Option<Source>,
}

/// A source line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file as the compiler was given it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 where it is not known.
    pub column: u32,
    /// The line's text.
    pub text: String,
}

impl Source {
    /// The file without its folders.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

impl Env<'_> {
    /// The line that the instruction at `at` comes from.
    pub(super) fn line_at(&self, at: u32) -> Option<&LineInfo> {
        let lines = self.spec.line_info;
        let line = &lines[lines.partition_point(|l| l.insn_off <= at).checked_sub(1)?];
        // Line information of another function says nothing.
        (self.subprog_at(line.insn_off) == self.subprog_at(at)).then_some(line)
    }

    pub(super) fn place(&self, at: u32) -> Place {
        let source = self.line_at(at).and_then(|line| self.source(line));
        Place {
            insn: InsnIdx(at),
            instruction: self.disassemble(at),
            function: self.function_name(self.subprog_at(at)),
            source,
        }
    }

    fn source(&self, line: &LineInfo) -> Option<Source> {
        let btf = self.spec.btf?;
        let text = btf.str_at(line.line);
        let file = btf.str_at(line.file);
        Some(Source { file: file.to_owned(), line: line.line_num, column: line.column, text: text.to_owned() })
    }

    /// The lines around one, by number, without it.
    pub(super) fn around(&self, at: u32) -> Vec<(u32, String)> {
        let (Some(line), Some(btf)) = (self.line_at(at), self.spec.btf) else { return Vec::new() };
        let near = line.line_num.saturating_sub(CONTEXT)..=line.line_num.saturating_add(CONTEXT);
        let mut lines: Vec<(u32, String)> = Vec::new();
        for other in self.spec.line_info {
            let known = lines.iter().any(|(number, _)| *number == other.line_num);
            if other.file == line.file && other.line_num != line.line_num && near.contains(&other.line_num) && !known {
                lines.push((other.line_num, btf.str_at(other.line).to_owned()));
            }
        }
        lines.retain(|(_, text)| !text.trim().is_empty());
        lines.sort();
        lines
    }

    /// The source lines that were processed most, with the slot of one of their instructions.
    pub(super) fn hot_lines(&self, shown: usize) -> Vec<(u32, u64)> {
        let mut lines: Vec<(Option<&LineInfo>, u32, u64)> = Vec::new();
        for (at, aux) in (0u32..).zip(&self.aux).filter(|(_, aux)| aux.processed > 0) {
            let line = self.line_at(at);
            let same = |other: &Option<&LineInfo>| match (other, line) {
                (Some(a), Some(b)) => a.file == b.file && a.line_num == b.line_num,
                _ => false,
            };
            match lines.iter_mut().find(|(other, ..)| same(other)) {
                Some((.., count)) => *count += u64::from(aux.processed),
                None => lines.push((line, at, u64::from(aux.processed))),
            }
        }
        lines.sort_by_key(|&(_, at, count)| (std::cmp::Reverse(count), at));
        // What is passed a few times beside thousands says nothing.
        let least = lines.first().map_or(0, |&(.., most)| most / 100);
        lines.retain(|&(.., count)| count >= least);
        lines.into_iter().take(shown).map(|(_, at, count)| (at, count)).collect()
    }
}
