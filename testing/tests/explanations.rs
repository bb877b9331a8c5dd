//! Explanations of refused programs: ten mistakes of beginners, each with its C source, its object and the whole text; and that
//! no refusal of the verifier's vectors goes without a class of its own.
//!
//! `BLESS=1` rewrites the texts (`testing/vectors/explain/*.txt`) and the page made of them (`docs/explanations.md`).

#![expect(clippy::unwrap_used, reason = "a panic is the failure")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep::{Explanation, Object};
use skep_testing::kernel;
use skep_testing::kernel_object::KernelObject;
use skep_testing::object_verdict::kernel_verdict;
use skep_testing::verifier_case::{Outcome, parse};
use skep_verifier::{Options, Profile};

/// A program, the category of its mistake, the line that is named, and what the text must say of the cause.
struct Expected {
    name: &'static str,
    category: &'static str,
    line: &'static str,
    causes: &'static [&'static str],
}

const EXPECTED: [Expected; 10] = [
    Expected {
        name: "off_by_one",
        category: "memory bounds",
        line: "histogram->slots[slot] += 1;",
        causes: &["r1 is set to 16", "offset 128 of a value of map 'sizes' (128 bytes)", "if (slot > SLOTS)"],
    },
    Expected {
        name: "null_check",
        category: "null pointer",
        line: "stats->packets += 1;",
        causes: &["bpf_map_lookup_elem() returns", "or NULL"],
    },
    Expected {
        name: "stale_packet",
        category: "pointer use",
        line: "eth->h_proto = 0x0008;",
        causes: &["bpf_xdp_adjust_head() may move the packet", "ctx->data"],
    },
    Expected {
        name: "uninitialised_stack",
        category: "uninitialized data",
        line: "count = bpf_map_lookup_elem(&flows, &flow);",
        causes: &["byte 5 of them was not written", "1 byte at fp-8 is written"],
    },
    Expected {
        name: "unbounded_loop",
        category: "limit",
        line: "for (__u32 i = 0; i < words; i++)",
        causes: &["is read from the packet (4 bytes)", "turn after turn", "0..4294967295"],
    },
    Expected {
        name: "wrong_context",
        category: "context access",
        line: "if (skb->tc_index == 7)",
        causes: &["struct xdp_md", "offset 44"],
    },
    Expected {
        name: "leaked_record",
        category: "reference",
        line: "}",
        causes: &["bpf_ringbuf_reserve()", "line 20", "if (event->size < 64)"],
    },
    Expected {
        name: "pointer_arithmetic",
        category: "memory bounds",
        line: "if (udp->dest == bpf_htons(53))",
        causes: &["0..60", "udp = (void *)ip + ip->ihl * 4;", "No comparison with data_end"],
    },
    Expected {
        name: "map_value_offset",
        category: "memory bounds",
        line: "if (ctx->ingress_ifindex & config->mask)",
        causes: &["8 bytes at offset 8 of a value of map 'configuration' (8 bytes)"],
    },
    Expected {
        name: "tail_call",
        category: "call argument",
        line: "bpf_tail_call(ctx, &handlers, ctx->rx_queue_index & 3);",
        causes: &["BPF_MAP_TYPE_PROG_ARRAY", "map 'handlers' (array)"],
    },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/explain")
}

fn blessing() -> bool {
    std::env::var_os("BLESS").is_some()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The one of the ten that only an unprivileged program gets wrong.
fn unprivileged(name: &str) -> bool {
    name == "uninitialised_stack"
}

/// Our refusal, and the message of it.
fn explain(name: &str) -> (Explanation, String) {
    let object = Object::open(folder().join(format!("{name}.bpf.o"))).unwrap();
    let shapes = object.shapes().unwrap();
    let options = Options {
        log_level: 0,
        profile: Profile::linux_6_18(),
        unprivileged: unprivileged(name),
        ..Options::default()
    };
    let report = object.verify(0, &shapes, &options).unwrap();
    let rejection = report.verdict.expect_err(name);
    assert!(report.log.contains(&rejection.message), "{name}: the log comes with the explanation");
    (report.explanation.unwrap(), rejection.message)
}

#[test]
fn the_line_and_the_cause_are_named() {
    for expected in &EXPECTED {
        let name = expected.name;
        let (explanation, _) = explain(name);
        let text = explanation.to_string();
        let snapshot = folder().join(format!("{name}.txt"));
        if blessing() {
            std::fs::write(&snapshot, &text).unwrap();
        }
        assert_eq!(text, read(&snapshot), "{name}: BLESS=1 rewrites the text");
        assert_eq!(explanation.category.name(), expected.category, "{name}");
        let at = explanation.at.as_ref().and_then(|at| at.source.as_ref()).unwrap();
        assert_eq!(at.text.trim(), expected.line, "{name}");
        let source = read(&folder().join(format!("{name}.bpf.c")));
        let line = usize::try_from(at.line).unwrap();
        assert_eq!(
            source.lines().nth(line - 1).map(str::trim),
            Some(expected.line),
            "{name}: line {line} of the source"
        );
        for cause in expected.causes {
            assert!(text.contains(cause), "{name}: does not say {cause:?}:\n{text}");
        }
    }
}

#[test]
fn the_kernel_refuses_them_for_the_same_reason() {
    if !kernel::require("explained programs") {
        return;
    }
    // The kernel takes a quarter of a minute to give up on the loop; the verifier's vectors ask it about such a one.
    for Expected { name, .. } in EXPECTED.iter().filter(|e| e.name != "unbounded_loop") {
        let object = Object::open(folder().join(format!("{name}.bpf.o"))).unwrap();
        let ask = || {
            let created = KernelObject::create(object.spec()).unwrap();
            kernel_verdict(&created, 0, 1).unwrap().0
        };
        // Where capabilities cannot be changed, the kernel cannot be asked about the unprivileged one.
        let verdict = if unprivileged(name) { kernel::without_perfmon(ask) } else { Some(ask()) };
        let Some(verdict) = verdict else { continue };
        assert_eq!(verdict.message(), explain(name).1, "{name}");
    }
}

#[test]
fn colour_is_only_decoration() {
    let (explanation, _) = explain("off_by_one");
    let colored = explanation.render(true);
    assert!(colored.contains("\x1b[1;31mVerification failed:"));
    let mut plain = String::new();
    for part in colored.split("\x1b[") {
        plain.push_str(if plain.is_empty() && !colored.starts_with("\x1b[") {
            part
        } else {
            part.split_once('m').map_or(part, |p| p.1)
        });
    }
    assert_eq!(plain, explanation.render(false));
}

/// The sentence at the head of a source, and its program.
fn document(name: &str) -> String {
    let source = read(&folder().join(format!("{name}.bpf.c")));
    let mut head = source.lines().skip(2).take_while(|l| l.starts_with("//")).map(|l| l.trim_start_matches("// "));
    let title = head.next().unwrap_or_default();
    let more: Vec<&str> = head.collect();
    let body = source.find("SEC(\"").map_or("", |_| {
        let start = source.lines().position(|l| l.starts_with("SEC(\"")).unwrap_or(0);
        let from: usize = source.lines().take(start).map(|l| l.len() + 1).sum();
        let to = source[from..].find("\n}\n").map_or(source.len(), |end| from + end + 2);
        &source[from..to]
    });
    let (heading, rest) = title.split_once(". ").map_or((title.trim_end_matches('.'), ""), |(h, r)| (h, r));
    let mut text = format!("\n## {heading}\n\n");
    for line in [rest].into_iter().chain(more).filter(|l| !l.is_empty()) {
        let _ = writeln!(text, "{line}\n");
    }
    let flag = if unprivileged(name) { " --unpriv" } else { "" };
    let _ = write!(
        text,
        "```c\n{body}\n```\n\n`skep verify{flag} testing/vectors/explain/{name}.bpf.o`, after the log:\n\n```text\n{}```\n",
        explain(name).0
    );
    text
}

#[test]
fn the_page_shows_what_is_printed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explanations.md");
    let committed = read(&path);
    let (intro, _) = committed.split_once("\n## ").unwrap_or((&committed, ""));
    let mut page = format!("{}\n", intro.trim_end());
    for expected in &EXPECTED {
        page += &document(expected.name);
    }
    if blessing() {
        std::fs::write(&path, &page).unwrap();
    }
    assert_eq!(page, read(&path), "BLESS=1 rewrites the page");
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "txt") {
            out.push(path);
        }
    }
}

#[test]
fn every_refused_vector_has_a_class() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/verifier"), &mut files);
    let mut asked = 0;
    let mut bare = String::new();
    for path in files {
        let case = parse(&read(&path)).unwrap();
        let Some(Outcome::Reject(_, message)) = &case.expected else { continue };
        let explanation = case.explanation().expect("it is refused");
        asked += 1;
        // What no row of the table fits has its message as title; `= {}` is a suggestion's code, not a place left open.
        let text = explanation.to_string().replace("= {}", "");
        if explanation.title == *message || text.contains(['{', '}']) {
            let _ = writeln!(bare, "{}: {explanation}", path.display());
        }
    }
    assert!(asked > 100, "only {asked} refusals");
    assert!(bare.is_empty(), "{bare}");
}
