//! Every example over every capture: interpreter, compiled code and the kernel's test run agree on each packet's verdict and
//! bytes, and on what the maps hold afterwards.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use skep::{Loaded, Mode, Object};
use skep_testing::examples::{
    EXAMPLES, Verdict, captures, contents, kernel_contents, load, objects, packets_for, run_in_kernel,
};
use skep_testing::kernel::{self, Prog};
use skep_testing::kernel_object::KernelObject;

fn run(loaded: &Loaded, program: &str, packets: &[Vec<u8>]) -> Vec<Verdict> {
    skep_testing::examples::run(&loaded.program(program).unwrap(), packets)
}

#[test]
fn examples_do_what_the_kernel_does() {
    let with_kernel = kernel::require("examples_do_what_the_kernel_does");
    let captures = captures();
    for (file, program) in EXAMPLES {
        let object = Object::open(objects().join(format!("{file}.bpf.o"))).unwrap();
        for capture in &captures {
            let what = format!("{file} over {}", capture.file_name().unwrap().to_string_lossy());
            let packets = packets_for(&object, capture);
            let (jit, interp) = (load(&object, Mode::Jit), load(&object, Mode::Interp));
            let verdicts = run(&jit, program, &packets);
            assert_eq!(verdicts, run(&interp, program, &packets), "{what}: interpreter");
            assert_eq!(contents(jit.maps()), contents(interp.maps()), "{what}: interpreter's maps");
            if !with_kernel {
                continue;
            }
            let kernel = KernelObject::create(object.spec()).unwrap();
            let programs: Vec<Option<Prog>> =
                (0..object.programs().len()).map(|i| Some(kernel.load(i, 0).unwrap().prog)).collect();
            kernel.fill_prog_arrays(&programs).unwrap();
            let index = object.programs().iter().position(|p| p.name == program).unwrap();
            let entered = programs[index].as_ref().unwrap();
            assert_eq!(verdicts, run_in_kernel(entered, &packets), "{what}: kernel");
            assert_eq!(
                contents(jit.maps()),
                kernel_contents(&object, |name| kernel.map(name).unwrap()),
                "{what}: kernel's maps"
            );
        }
    }
}

#[test]
fn tags_are_the_kernels() {
    if !kernel::require("tags_are_the_kernels") {
        return;
    }
    for (file, program) in EXAMPLES {
        let object = Object::open(objects().join(format!("{file}.bpf.o"))).unwrap();
        let kernel = KernelObject::create(object.spec()).unwrap();
        let index = object.programs().iter().position(|p| p.name == program).unwrap();
        let info = kernel.load(index, 0).unwrap().prog.info().unwrap();
        let tag: String = info.tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(load(&object, Mode::Interp).program(program).unwrap().tag(), tag, "{file}");
    }
}
