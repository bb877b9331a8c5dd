//! Extension programs: our verdict on each program of `testing/objects/ext_programs.bpf.c` in the place of a function of
//! `ext_target.bpf.c` is what `ext_verdicts.txt` says (`BLESS=1` rewrites it), and the kernel's where it may be asked.
#![expect(clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use skep_object::ObjectSpec;
use skep_testing::kernel::{self, Prog};
use skep_testing::kernel_object::{KernelError, KernelObject};
use skep_testing::object_verdict::our_verdict_of_extension;
use skep_testing::verdict::{Verdict, last_message};

/// What we refuse and the kernel takes, and why.
const STRICTER: [(&str, &str); 1] = [(
    "reads_beyond_what_is_passed",
    "the kernel compares names of structs and not their sizes, so the extension reads beyond what its callers pass",
)];

fn object(name: &str) -> ObjectSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects").join(format!("{name}.bpf.o"));
    skep_object::parse(&std::fs::read(path).expect("committed"), name).expect("an object")
}

/// The program that an extension is for, and the function's type.
fn target(spec: &ObjectSpec, extension: &str, function: &str) -> (usize, skep_btf::TypeId) {
    let wanted = if extension.starts_with("cg_") { "in_range" } else { "target" };
    let program = spec.programs.iter().position(|program| program.name == wanted).expect("the target");
    let btf = spec.btf.as_ref().expect("types");
    (program, btf.find(function, skep_btf::Kind::Func).expect("the function's type"))
}

fn theirs(
    objects: (&KernelObject<'_>, &ObjectSpec),
    index: usize,
    target: (&Prog, skep_btf::TypeId),
) -> (Verdict, String) {
    match objects.0.load_extension(&objects.1.programs[index], 1, target) {
        Ok(loaded) => (Verdict::Accepted, loaded.log),
        Err(KernelError::Rejected { errno, log, .. }) => {
            (Verdict::Rejected { errno, message: last_message(&log).to_owned() }, log)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether a kernel after 6.18 refuses with the same errno and message, and then explains itself.
fn says_more(ours: &Verdict, (theirs, log): &(Verdict, String)) -> bool {
    let (Verdict::Rejected { errno, message }, Verdict::Rejected { errno: other, .. }) = (ours, theirs) else {
        return false;
    };
    errno == other && log.contains("\nReason:\n") && log.lines().any(|line| line == message)
}

#[test]
fn verdicts_are_the_kernels() {
    let (target_spec, extensions) = (object("ext_target"), object("ext_programs"));
    let asked = kernel::require_extensions("verdicts on extensions");
    let kernel = asked.then(|| {
        let targets = KernelObject::create(&target_spec).expect("the target's maps");
        let programs: Vec<Prog> =
            (0..target_spec.programs.len()).map(|at| targets.load(at, 0).expect("the target loads").prog).collect();
        programs
    });
    let (mut wrong, mut accepted, mut verdicts) = (String::new(), 0, String::new());
    for (index, program) in extensions.programs.iter().enumerate() {
        let function = program.sec.as_ref().and_then(|sec| sec.target.as_deref()).expect("a function");
        let (at, func) = target(&target_spec, &program.name, function);
        let ours = our_verdict_of_extension((&extensions, index), (&target_spec, at, func), 1).expect("a verdict");
        accepted += u32::from(ours.0.is_accepted());
        verdicts += &match &ours.0 {
            Verdict::Accepted => format!("{}: accepted\n", program.name),
            Verdict::Rejected { errno, message } => format!("{}: {errno}: {message}\n", program.name),
        };
        let Some(programs) = &kernel else { continue };
        // A prog array belongs to the first type of program that uses it: one set of maps for each load.
        let maps = KernelObject::create(&extensions).expect("the extensions' maps");
        let theirs = theirs((&maps, &extensions), index, (&programs[at], func));
        let stricter = STRICTER.iter().any(|(name, _)| *name == program.name);
        let agree = if stricter {
            !ours.0.is_accepted() && theirs.0.is_accepted()
        } else {
            ours.0 == theirs.0 || says_more(&ours.0, &theirs)
        };
        if !agree {
            wrong += &format!("{}: ours {:?}\n{}kernel {:?}\n{}\n", program.name, ours.0, ours.1, theirs.0, theirs.1);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects/ext_verdicts.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&recorded, &verdicts).expect("writable");
    }
    assert_eq!(std::fs::read_to_string(&recorded).expect("committed"), verdicts, "BLESS=1 records them");
    assert!(accepted >= 10 && extensions.programs.len() >= 30, "{accepted} of {} accepted", extensions.programs.len());
}

#[test]
fn an_extension_is_no_tail_callee_in_the_kernel_either() {
    if !kernel::require_extensions("an extension in a prog array") {
        return;
    }
    let (target_spec, extensions) = (object("ext_target"), object("ext_programs"));
    let targets = KernelObject::create(&target_spec).expect("the target's maps");
    let (at, func) = target(&target_spec, "good", "of_ctx");
    let target = targets.load(at, 0).expect("the target loads").prog;
    let maps = KernelObject::create(&extensions).expect("maps");
    let good = extensions.programs.iter().find(|program| program.name == "good").expect("good");
    let extension = maps.load_extension(good, 0, (&target, func)).expect("accepted").prog;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&extension)).to_ne_bytes();
    let refused = maps.map("table").expect("the array").update(&[0; 4], &fd, 0);
    assert_eq!(refused, Err(skep_abi::Errno::EINVAL));
}
