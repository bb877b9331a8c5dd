//! The command as a user meets it: exit statuses, messages, JSON shapes. Bad input never hangs and never panics.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn skep<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skep")).current_dir(root()).args(args).output().unwrap()
}

fn words(line: &str) -> Output {
    skep(line.split_whitespace())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit status and message of a command line that must fail.
#[track_caller]
fn fails(line: &str, status: i32, message: &str) {
    let output = words(line);
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{line}: {errors}");
    assert!(errors.contains(message), "{line}: {errors}");
    assert!(!errors.contains("panicked"), "{line}: {errors}");
}

/// What a command line printed that must succeed.
#[track_caller]
fn succeeds(line: &str) -> Output {
    let output = words(line);
    assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
    output
}

#[test]
fn wrong_usage_is_2() {
    fails("", 2, "Usage");
    fails("frobnicate", 2, "unrecognized subcommand");
    fails("run", 2, "required");
    fails("run examples/xdp_firewall.bpf.o", 2, "nothing to run over");
    fails("run examples/xdp_firewall.bpf.o --packet zz", 2, "not a hex byte");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --repeat 99999999999999999999999", 2, "repeat");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --threads 0", 2, "threads");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --prog nothere", 2, "there are firewall");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --set-rodata nothere=1", 2, "no variable");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --set-rodata drop_fragments=256", 2, "does not fit");
    fails("run examples/xdp_firewall.bpf.o --packet 00 --set-rodata drop_fragments", 2, "NAME=VALUE");
    fails("run examples/xdp_dispatch.bpf.o --packet 00", 2, "choose with --prog");
    fails("btf dump examples/xdp_firewall.bpf.o", 2, "file FILE");
}

#[test]
fn files_that_cannot_be_read_are_3() {
    fails("run nothere.bpf.o --packet 00", 3, "nothere.bpf.o");
    fails("run examples --packet 00", 3, "not a regular file");
    fails("run /dev/zero --packet 00", 3, "not a regular file");
    fails("run examples/xdp_firewall.bpf.o --pcap nothere.pcap", 3, "nothere.pcap");
    fails("run examples/xdp_firewall.bpf.o --pcap /dev/zero", 3, "not a regular file");
    fails("run examples/xdp_firewall.bpf.o --pcap examples/xdp_firewall.bpf.o", 3, "neither pcap nor pcapng");
    fails("run examples/pcaps/mixed.pcap --packet 00", 3, "mixed.pcap");
    fails("verify nothere.bpf.o", 3, "nothere.bpf.o");
    fails("btf dump file examples/pcaps/icmp.pcap", 3, "icmp.pcap");
}

#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let output = skep([OsStr::new("verify"), fifo.as_os_str()]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn a_path_that_is_not_utf8_is_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsStr::from_bytes(b"fire\xffwall.bpf.o"));
    std::fs::copy(root().join("examples/xdp_firewall.bpf.o"), &path).unwrap();
    let output = skep([OsStr::new("verify"), path.as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn control_characters_in_messages_are_escaped() {
    let output = skep(["verify", "no\x1b[31mthere"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!output.stderr.contains(&0x1b), "{}", stderr(&output));
}

#[test]
fn a_cut_capture_runs_to_its_last_whole_packet() {
    let whole = std::fs::read(root().join("examples/pcaps/icmp.pcap")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &whole[..whole.len() - 5]).unwrap();
    let object = OsStr::new("examples/xdp_firewall.bpf.o");
    let output = skep([OsStr::new("run"), object, OsStr::new("-j"), OsStr::new("--pcap"), file.path().as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("running over the 3 whole packets"), "{}", stderr(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["packets"], 3);
}

#[test]
fn help_has_examples() {
    for line in ["--help", "run --help", "verify --help", "prog dump xlated --help", "btf dump --help"] {
        let output = succeeds(line);
        assert!(stdout(&output).contains("Examples:"), "{line}: {}", stdout(&output));
    }
}

#[test]
fn the_readmes_command_prints_actions_and_maps() {
    let output = succeeds("run examples/xdp_firewall.bpf.o --pcap examples/pcaps/mixed.pcap --maps");
    let text = stdout(&output);
    for needed in ["XDP_DROP", "XDP_PASS", "XDP_ABORTED", "ns/packet", "verdicts (percpu_array", "sources (hash"] {
        assert!(text.contains(needed), "no {needed} in:\n{text}");
    }
}

/// Name and packets of each action.
fn actions(json: &Value) -> Vec<(String, u64)> {
    let list = json["actions"].as_array().unwrap();
    list.iter().map(|a| (a["name"].as_str().unwrap().to_owned(), a["packets"].as_u64().unwrap())).collect()
}

#[test]
fn run_as_json_has_the_promised_shape() {
    let line = "run examples/xdp_firewall.bpf.o --pcap examples/pcaps/mixed.pcap --maps --stats -j";
    let output = succeeds(line);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["program"], "firewall");
    assert_eq!(json["packets"], 44);
    assert_eq!(json["stats"]["run_cnt"], 44);
    assert!(json["ns_per_packet"].as_f64().unwrap() > 0.0);
    let total: u64 = actions(&json).iter().map(|(_, packets)| packets).sum();
    assert_eq!(total, 44);
    let verdicts = json["maps"].as_array().unwrap().iter().find(|map| map["name"] == "verdicts").unwrap();
    assert_eq!(verdicts["type"], "percpu_array");
    assert_eq!(verdicts["entries"].as_array().unwrap().len(), 5);
}

#[test]
fn interpreter_and_threads_give_the_same_actions_and_packets() {
    for (object, more) in [
        ("xdp_firewall", ""),
        ("xdp_load_balancer", ""),
        ("tc_flows", ""),
        ("socket_dns", ""),
        ("xdp_dispatch", "--prog dispatch"),
        ("percpu_counters", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for mode in ["--mode jit", "--mode interp", "--threads 2"] {
            let out = folder.path().join("out.pcap");
            let line = format!(
                "run examples/{object}.bpf.o {more} --pcap examples/pcaps/mixed.pcap -j {mode} --write {}",
                out.display()
            );
            let output = succeeds(&line);
            let json: Value = serde_json::from_slice(&output.stdout).unwrap();
            seen.push((actions(&json), std::fs::read(&out).unwrap()));
        }
        assert_eq!(seen[0], seen[1], "{object}: interpreter");
        assert_eq!(seen[0], seen[2], "{object}: two threads");
    }
}

#[test]
fn constants_and_maps_can_be_set() {
    let line = "run examples/xdp_firewall.bpf.o --pcap examples/pcaps/fragments.pcap -j --set-rodata drop_fragments=0";
    let json: Value = serde_json::from_slice(&words(line).stdout).unwrap();
    assert_eq!(actions(&json), [("XDP_PASS".to_owned(), 3)]);

    let rules = tempfile::NamedTempFile::new().unwrap();
    // Everything from 10.0.0.0/8, as an IPv4-mapped prefix.
    let prefix = "[0,0,0,0,0,0,0,0,0,0,255,255,10,0,0,0]";
    let text = format!("[{{\"key\":{{\"prefix_len\":104,\"address\":{prefix}}},\"value\":0}}]");
    std::fs::write(rules.path(), text).unwrap();
    let line = format!(
        "run examples/xdp_firewall.bpf.o --pcap examples/pcaps/icmp.pcap -j --maps --map blocked_sources={}",
        rules.path().display()
    );
    let output = succeeds(&line);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(actions(&json), [("XDP_DROP".to_owned(), 4)]);
    let map = json["maps"].as_array().unwrap().iter().find(|map| map["name"] == "blocked_sources").unwrap();
    assert_eq!(map["entries"][0]["value"], 4);
}

#[test]
fn verify_answers_for_several_objects() {
    let objects = "examples/xdp_firewall.bpf.o examples/tc_flows.bpf.o";
    let output = succeeds(&format!("verify {objects}"));
    assert!(stdout(&output).contains("2 programs, 2 accepted, 0 not"), "{}", stdout(&output));

    let output = words(&format!("verify -j {objects} nothere.bpf.o"));
    assert_eq!(output.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdicts: Vec<&str> = json.as_array().unwrap().iter().map(|row| row["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["success", "success", "unreadable"]);
    for key in ["file", "prog", "section", "errno", "message", "insns", "states", "duration_us"] {
        assert!(json[0].get(key).is_some(), "no {key}");
    }
}

#[test]
fn a_refusal_is_explained() {
    let object = "testing/vectors/explain/off_by_one.bpf.o";
    let output = words(&format!("verify {object}"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stdout(&output);
    for part in ["Verification failed: memory bounds:", "Reason:", "At: count_sizes", "Causal path:", "Suggestion:"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains('\x1b'), "no colour where there is no terminal");
    assert!(stdout(&words(&format!("verify --color always {object}"))).contains("\x1b[1;31mVerification failed"));

    let json: Value = serde_json::from_slice(&words(&format!("verify -j {object}")).stdout).unwrap();
    let explanation = &json[0]["explanation"];
    assert_eq!(explanation["category"], "memory bounds");
    assert_eq!(explanation["at"]["line"], 32);
    assert_eq!(explanation["at"]["text"].as_str().unwrap().trim(), "histogram->slots[slot] += 1;");
    assert_eq!(explanation["path"][0]["role"], "value");
    assert_eq!(explanation["path"][0]["line"], 24);

    let run = words(&format!("run {object} --packet 00"));
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("Verification failed: memory bounds"), "{}", stderr(&run));
}

/// Programs of a verification's rows, in order.
fn programs(output: &Output) -> Vec<String> {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json.as_array().unwrap().iter().map(|row| row["prog"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn verdicts_are_filtered_and_sorted() {
    let objects = "examples/xdp_firewall.bpf.o examples/tc_flows.bpf.o examples/xdp_dispatch.bpf.o";
    let all = programs(&words(&format!("verify -j {objects}")));
    assert!(all.len() > 3, "{all:?}");
    assert_eq!(programs(&words(&format!("verify -j {objects} -f xdp_firewall*"))), ["firewall"]);
    let but = programs(&words(&format!("verify -j {objects} -f !xdp_dispatch*/")));
    assert_eq!(but, ["firewall", "count_flows"]);
    assert_eq!(programs(&words(&format!("verify -j {objects} -f insns>5000"))), ["firewall"]);
    let sorted = words(&format!("verify -j {objects} -s insns"));
    let json: Value = serde_json::from_slice(&sorted.stdout).unwrap();
    let insns: Vec<u64> = json.as_array().unwrap().iter().map(|row| row["insns"].as_u64().unwrap()).collect();
    assert!(insns.is_sorted_by(|a, b| a >= b), "{insns:?}");
    fails(&format!("verify {objects} -f nothere>1"), 2, "no column");
    fails(&format!("verify {objects} -s nothere"), 2, "no column");
    fails(&format!("verify {objects} -f @nothere.txt"), 3, "nothere.txt");
    // A program that is left out of the result still decides the exit status.
    let refused = "verify testing/vectors/explain/null_check.bpf.o -f insns>1000000";
    assert_eq!(words(refused).status.code(), Some(1));
}

#[test]
fn the_busiest_lines_are_shown() {
    let output = words("verify examples/xdp_firewall.bpf.o -S 3");
    let text = stdout(&output);
    assert!(text.contains("Top source lines (firewall):"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("(xdp_firewall.bpf.c:")).count(), 3, "{text}");
    let json: Value = serde_json::from_slice(&words("verify -j examples/xdp_firewall.bpf.o -S 1000").stdout).unwrap();
    let lines = json[0]["top_lines"].as_array().unwrap();
    let sum: u64 = lines.iter().map(|line| line["insns"].as_u64().unwrap()).sum();
    // What is not walked again because it is known to be safe counts as processed, but not for its line.
    let insns = json[0]["insns"].as_u64().unwrap();
    assert!(sum <= insns && sum * 2 > insns, "{sum} of {insns}");
}

#[test]
fn the_kernel_is_asked_beside() {
    let output = words("verify -j --kernel examples/tc_flows.bpf.o testing/vectors/explain/null_check.bpf.o");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (row, verdict) in json.as_array().unwrap().iter().zip(["success", "failure"]) {
        let kernel = &row["kernel"];
        assert_eq!(row["verdict"], verdict);
        // Where it cannot be asked, it says so.
        if kernel["verdict"] == "not asked" {
            assert!(!kernel["message"].as_str().unwrap().is_empty());
            continue;
        }
        assert_eq!(kernel["verdict"], verdict);
        assert_eq!(kernel["same"], true);
    }
    fails("verify --kernel --unpriv examples/tc_flows.bpf.o", 2, "cannot be used with");
}

#[test]
fn another_kernels_rules_decide() {
    let object = "testing/vectors/explain/off_by_one.bpf.o";
    let message = |profile: &str| {
        let output = words(&format!("verify -j --profile {profile} {object}"));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        json[0]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(message("6.18"), "R0 min value is outside of the allowed memory range");
    assert_eq!(message("6.12"), message("6.18"));
    let kfuncs = "verify --profile 5.15 examples/xdp_firewall.bpf.o";
    assert_eq!(words(kfuncs).status.code(), Some(0));
    fails(&format!("verify --profile 4.4 {object}"), 2, "there are 5.15, 6.1");
}

#[test]
fn saved_verdicts_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.csv");
    std::fs::write(&saved, words("verify examples/xdp_firewall.bpf.o -o csv").stdout).unwrap();
    let output = succeeds(&format!("verify -C {0} {0}", saved.display()));
    assert!(stdout(&output).contains("+0 (+0.00%)"), "{}", stdout(&output));
}

#[test]
fn dumps_show_the_program() {
    let xlated = succeeds("prog dump xlated examples/tc_flows.bpf.o linum opcodes");
    let text = stdout(&xlated);
    assert!(text.contains("int count_flows(struct __sk_buff * skb):"), "{text}");
    assert!(text.contains("tc_flows.bpf.c line_num:"), "{text}");
    let jited = succeeds("prog dump jited examples/tc_flows.bpf.o");
    assert!(stdout(&jited).contains("ret"), "{}", stdout(&jited));
    let json: Value = serde_json::from_slice(&words("prog dump xlated examples/tc_flows.bpf.o -j").stdout).unwrap();
    assert!(json.as_array().unwrap().len() > 20);
}

#[test]
fn tail_calls_are_spelled_out() {
    let calls = |program: &str| {
        let output = succeeds(&format!("prog dump xlated examples/xdp_dispatch.bpf.o name {program}"));
        let text = stdout(&output);
        let calls = text.lines().filter(|line| line.contains("tail_call ")).map(|line| line.split_once(' ').unwrap().1);
        calls.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    // Map 0 of the program and a constant index: poked. The numbers are those of the encoding: poke index plus 1 in bits 16-31.
    let dispatch = calls("dispatch");
    assert_eq!(dispatch.len(), 2, "{dispatch:?}");
    assert!(
        dispatch[0].contains("tail_call 0x10000  ; map 0 'id:") && dispatch[0].ends_with("/stages', index 0, poke 0")
    );
    assert!(
        dispatch[1].contains("tail_call 0x20000  ; map 0 'id:") && dispatch[1].ends_with("/stages', index 1, poke 1")
    );
    // Map 1 and an index that depends on the packet: cached.
    let parse = calls("parse_ipv4");
    assert!(
        parse.len() == 1 && parse[0].contains("tail_call 0x1  ; map 1 'id:") && parse[0].ends_with("/stages'"),
        "{parse:?}"
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_cached_tail_call_loads_the_target_and_nothing_else() {
    let output = succeeds("prog dump jited examples/xdp_dispatch.bpf.o name parse_ipv4");
    let text = stdout(&output);
    let code: Vec<&str> = text.lines().filter_map(|line| line.split_once(":\t")).map(|(_, insn)| insn).collect();
    // The array has five slots: an immediate.
    let start = code.iter().position(|insn| *insn == "cmp $0x5,%edx").unwrap_or_else(|| panic!("no bound in\n{text}"));
    let end = code.iter().position(|insn| insn.starts_with("jmp *")).unwrap_or_else(|| panic!("no jump in\n{text}"));
    let shown: Vec<String> = code[start..=end]
        .iter()
        .map(|insn| match insn.split_once(' ') {
            // Addresses differ from run to run.
            Some((jump, _)) if jump.starts_with('j') && !insn.contains('*') => format!("{jump} OUT"),
            Some(("movabs", operands)) => format!("movabs $TARGETS,{}", operands.split_once(',').unwrap().1),
            _ => (*insn).to_owned(),
        })
        .collect();
    let expected = [
        "cmp $0x5,%edx",
        "jae OUT",
        "cmpl $0x21,0x48(%r9)",
        "jae OUT",
        "mov %edx,%r10d",
        "movabs $TARGETS,%r11",
        "mov (%r11,%r10,8),%r11",
        "test %r11,%r11",
        "je OUT",
        "addl $0x1,0x48(%r9)",
        "mov %r9,%rsi",
        "jmp *%r11",
    ];
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn btf_in_both_forms() {
    let raw = words("btf dump file examples/xdp_firewall.bpf.o");
    assert!(stdout(&raw).contains("[1] PTR '(anon)'"), "{}", stdout(&raw));
    let c = words("btf dump file examples/xdp_firewall.bpf.o format c");
    assert!(stdout(&c).contains("struct source_key {"), "{}", stdout(&c));
    let json: Value = serde_json::from_slice(&words("btf dump file examples/xdp_firewall.bpf.o -j").stdout).unwrap();
    assert_eq!(json["types"][0]["kind"], "PTR");
}

#[test]
fn completions_and_features() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(words(&format!("completions {shell}")).status.success());
    }
    let json: Value = serde_json::from_slice(&words("feature -j").stdout).unwrap();
    assert!(json.as_array().unwrap().iter().any(|f| f["name"] == "live_patching"));
}

#[test]
fn skeletons_in_both_languages() {
    let c = succeeds("gen skeleton examples/percpu_counters.bpf.o name counters");
    assert!(stdout(&c).contains("struct counters__percpu {"), "{}", stdout(&c));
    let rust = words("gen skeleton examples/percpu_counters.bpf.o --lang rust");
    assert!(stdout(&rust).contains("pub mod percpu_counters_bpf"), "{}", stdout(&rust));
    let light = words("gen skeleton -L examples/percpu_counters.bpf.o");
    assert!(stdout(&light).contains("err = bpf_load_and_run(&opts);"), "{}", stderr(&light));
    let light = words("gen skeleton --use-loader examples/percpu_counters.bpf.o --lang rust");
    assert!(stdout(&light).contains("engine.load_light(&LIGHT, values)"), "{}", stderr(&light));
    fails("gen skeleton -L examples/request_filter.bpf.o", 3, "names no program type");
    fails("gen skeleton examples/percpu_counters.bpf.o frob", 2, "name NAME");
}

#[test]
fn map_elements_by_command() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("commands");
    let batch = |object: &str, commands: &str| {
        std::fs::write(&script, commands).unwrap();
        skep(["map", "batch", object, script.to_str().unwrap(), "-j"])
    };
    let output = batch(
        "examples/xdp_dispatch.bpf.o",
        "# per-CPU values\nmap update name seen key 0 value 5 all-cpus\nupdate name seen key 1 0 0 0 value 7 cpu 0\n\
         lookup name seen key 0 cpu 0\nlookup name seen key 1\ngetnext name seen key 0\n",
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answers: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answers[2]["formatted"], 5);
    assert_eq!(answers[3]["values"][0]["value"][0], "0x07");
    assert_eq!(answers[4]["next_key"][0], "0x01");
    let output = batch(
        "examples/xdp_firewall.bpf.o",
        "update name blocked_sources key hex 08 00 00 00 0a 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 value 3\n\
         lookup name blocked_sources key 0x10 0 0 0 0x0a 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n\
         delete name blocked_sources key 8 0 0 0 10 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n\
         lookup name blocked_sources key 8 0 0 0 10 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
    );
    assert_eq!(output.status.code(), Some(1), "the last key is not there: {}", stderr(&output));
    let answers: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answers[1]["value"][0], "0x03");
    assert_eq!(answers[3]["error"], "Not found");

    let map = "examples/xdp_dispatch.bpf.o";
    fails(&format!("map lookup {map}"), 2, "name NAME");
    fails(&format!("map lookup {map} name nothere key 0"), 2, "there are stages, seen");
    fails(&format!("map lookup {map} name seen"), 2, "a key is missing");
    fails(&format!("map lookup {map} name seen key 1 2"), 2, "2 bytes, the map has 4");
    fails(&format!("map lookup {map} name seen key 99999999999"), 2, "does not fit");
    fails(&format!("map lookup {map} name seen key 0 cpu x"), 2, "number of a CPU");
    fails(&format!("map lookup {map} name seen key 0 cpu 70000"), 3, "ERANGE");
    fails(&format!("map update {map} name seen key 0 value 1 cpu 0 all-cpus"), 3, "EINVAL");
    fails(&format!("map update {map} name seen key 100 value 1 all-cpus"), 3, "E2BIG");
}

#[test]
fn iterators_write_to_standard_output() {
    let object = "crates/skep/tests/data/map_iter.bpf.o";
    let output = succeeds(&format!("run {object} --iter dump=slots"));
    assert_eq!(stdout(&output), "slots has 4 entries\n0: 0\n1: 0\n2: 0\n3: 0\nend after 3\n");
    // Beside a run, after its table.
    let ctx = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ctx.path(), [0; 8]).unwrap();
    let hit = format!("run {object} --prog hit --ctx {} --repeat 3 --threads 2", ctx.path().display());
    let output = words(&format!("{hit} --iter percpu_data=.percpu"));
    assert!(stdout(&output).starts_with("hit (raw_tracepoint, jit, 2 threads): 3 runs"), "{}", stderr(&output));
    let last = stdout(&output).lines().last().unwrap_or_default().to_owned();
    // `first` and `hits` of each vCPU: each run takes from the one and adds to the other.
    let numbers: Vec<i32> = last.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let (first, hits): (Vec<i32>, Vec<i32>) = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    assert_eq!(first.iter().sum::<i32>(), 2 * 3 - 3, "{last}");
    assert_eq!(hits.iter().sum::<i32>(), 2 * 40 + 3, "{last}");
    let output = words(&format!("run {object} --iter dump=slots --iter again=slots -p"));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["iterators"][0]["program"], "dump");
    assert_eq!(json["iterators"][1]["map"], "slots");
    fails(&format!("run {object} --iter dump"), 2, "expected PROGRAM=MAP");
    fails(&format!("run {object} --iter dump=nothere"), 2, "no map named 'nothere'");
    fails(&format!("run {object} --iter nothere=slots"), 2, "no program named 'nothere'");
    fails(&format!("run {object} --iter dump=queue"), 3, "maps of type queue cannot be iterated");
    fails(&format!("run {object} --iter two_cpus=slots"), 3, "reaches 20 bytes into the value, map slots has 8");
}

#[test]
fn objects_are_linked_into_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("all.bpf.o");
    let shown = out.display();
    let link = "crates/object/tests/c/link";
    succeeds(&format!("gen object {shown} {link}/main.bpf.o {link}/lib.bpf.o"));
    succeeds(&format!("verify {shown}"));
    let before = std::fs::read(&out).unwrap();
    fails(&format!("gen object {shown} {link}/lib.bpf.o {link}/clash_twice.bpf.o"), 3, "is defined twice");
    fails(&format!("gen object {shown} {link}/lib.bpf.o nothere.o"), 3, "nothere.o");
    assert!(std::fs::read(&out).unwrap() == before, "a failure leaves the file as it was");
    fails("gen object", 2, "required");
    fails(&format!("gen object {} {link}/lib.bpf.o", folder.path().display()), 3, "is a directory");
    fails(&format!("gen object /nothere/x.o {link}/lib.bpf.o"), 3, "cannot write /nothere/x.o");
    fails(&format!("verify {link}/main.bpf.o"), 3, "only declared here");
    for language in ["c", "rust"] {
        let output = words(&format!("gen subskeleton {link}/lib.bpf.o name lib --lang {language}"));
        assert!(stdout(&output).contains("lib_counter"), "{}", stderr(&output));
    }
}
