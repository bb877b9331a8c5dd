//! Vectors through the verifier alone: verdict and message, nothing runs.

use skep_abi::{AttachType, MapType, ProgType};
use skep_btf::{Btf, FuncInfo, TypeId};
use skep_verifier::{KfuncRef, Log, MapShape, Options, Profile, ProgFlags, ProgramSpec, Verified, verify};

use super::{Assembled, Case, Engine, Outcome, ProgTypes, program, types_for};

/// Verifies vectors by the rules of Linux 6.18.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifierEngine;

impl Engine for VerifierEngine {
    fn name(&self) -> &'static str {
        "verifier"
    }

    fn run(&self, case: &Case) -> Outcome {
        match with_verified(case, |_, _| ()) {
            Ok(()) => Outcome::Accepted,
            Err(message) => Outcome::Refused(message),
        }
    }
}

/// Verifies a case's program and hands it to `then`.
///
/// # Errors
/// The assembler's or the verifier's message.
pub fn with_verified<T>(case: &Case, then: impl FnOnce(&ProgramSpec<'_>, &Verified) -> T) -> Result<T, String> {
    let Assembled { insns, kfuncs } = program(case).map_err(|error| error.to_string())?;
    let kfuncs: Vec<KfuncRef<'_>> = kfuncs.iter().map(|name| KfuncRef { name: name.as_str().into() }).collect();
    let shapes = shapes(case);
    let types = types_for(&insns);
    let btf = types.as_ref().and_then(|types| Btf::parse(&types.btf).ok());
    let func_info = types.as_ref().map(func_info).unwrap_or_default();
    let (prog_type, attach_type) = case.prog_type.unwrap_or((ProgType::SocketFilter, AttachType::default()));
    let spec = ProgramSpec {
        name: "vector",
        prog_type,
        attach_type,
        flags: ProgFlags::default(),
        insns: &insns,
        maps: &shapes,
        kfuncs: &kfuncs,
        btf: btf.as_ref(),
        func_info: &func_info,
        line_info: &[],
        gpl_compatible: true,
        target: None,
        ctx: None,
        helpers: None,
    };
    let options = Options { log_level: 0, profile: Profile::linux_6_18(), ..Options::default() };
    match verify(&spec, &options, &mut Log::new()) {
        Ok(verified) => Ok(then(&spec, &verified)),
        Err(rejection) => Err(rejection.message),
    }
}

/// Function information as the verifier takes it.
#[must_use]
pub fn func_info(types: &ProgTypes) -> Vec<FuncInfo> {
    types.funcs.iter().map(|(slot, id)| FuncInfo { insn_off: *slot, type_id: TypeId(*id) }).collect()
}

/// Shapes of the maps that [`program`] numbers: the result map first, where there is one.
#[must_use]
pub fn shapes(case: &Case) -> Vec<MapShape<'static>> {
    let mut shapes = Vec::new();
    if case.prog_type.is_none() {
        let size = u32::try_from(case.input.len()).unwrap_or(u32::MAX).saturating_add(8);
        shapes.push(MapShape::new(MapType::Array, 4, size, 1));
    }
    for decl in &case.maps {
        let mut shape = MapShape::new(decl.map_type, decl.key_size, decl.value_size, decl.max_entries);
        shape.flags = decl.flags;
        shape.user_start = MapShape::user_start_of(decl.map_type, 0);
        shape.frozen = decl.contents.is_some();
        shape.contents = decl.contents.clone().map(Into::into);
        if decl.map_type.is_map_of_maps() {
            shape.inner = Some(Box::new(MapShape::new(MapType::Array, 4, 8, 1)));
        }
        shapes.push(shape);
    }
    shapes
}
