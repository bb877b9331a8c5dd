//! CO-RE and kernel symbols between an object and the verifier's verdict.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use skep::Object;
use skep_btf::{Builder, Int, Rules, TypeData};

fn open(name: &str) -> Object {
    Object::open(format!("{}/../object/tests/c/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn verdict(object: &Object) -> Result<(), String> {
    let shapes = object.shapes().unwrap();
    let report = object.verify(0, &shapes, &skep_verifier::Options::default()).unwrap();
    report.verdict.map(drop).map_err(|rejection| rejection.message)
}

#[test]
fn an_object_is_accepted_with_its_own_types() {
    assert_eq!(verdict(&open("core")), Ok(()));
}

#[test]
fn an_object_is_accepted_with_the_types_of_another() {
    let target = open("core_target").spec().btf.clone().unwrap();
    assert_eq!(verdict(&open("core").with_target_btf(target)), Ok(()));
}

#[test]
fn a_reachable_relocation_without_an_answer_is_refused_with_its_reason() {
    let mut builder = Builder::new();
    builder.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 })).unwrap();
    let target = Arc::new(builder.finish(Rules::Kernel).unwrap());
    let message = verdict(&open("core").with_target_btf(target)).unwrap_err();
    assert!(
        message.starts_with("CO-RE byte_off of struct outer, access 0:3: no type of the target has such a field"),
        "{message}"
    );
    assert!(message.contains("195896080"), "{message}");
}

#[test]
fn weak_kernel_functions_may_be_missing() {
    assert_eq!(verdict(&open("externs")), Ok(()));
}
