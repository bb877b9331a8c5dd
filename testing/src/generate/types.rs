//! BTF for generated programs: static functions of two arguments, the least that callbacks need.

use skep_btf::{Btf, Builder, FuncInfo, FuncProto, Int, Linkage, Param, Result, Rules, TypeData, TypeId};

/// One function per subprogram.
pub(super) fn describe(starts: &[u32]) -> Result<(Btf, Vec<FuncInfo>)> {
    let mut types = Builder::new();
    let int = types.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 }))?;
    let pointer = types.add("", TypeData::Ptr(TypeId::VOID))?;
    let (ctx, number) = (types.string("ctx")?, types.string("number")?);
    let main = FuncProto { ret: int, params: vec![Param { name: ctx, ty: pointer }] };
    let main = types.add("", TypeData::FuncProto(main))?;
    let params = vec![Param { name: number, ty: int }, Param { name: ctx, ty: pointer }];
    let other = types.add("", TypeData::FuncProto(FuncProto { ret: int, params }))?;
    let mut funcs = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let (name, proto, linkage) = match index {
            0 => ("main".to_owned(), main, Linkage::Global),
            _ => (format!("f{index}"), other, Linkage::Static),
        };
        let type_id = types.add(&name, TypeData::Func { proto, linkage })?;
        funcs.push(FuncInfo { insn_off: *start, type_id });
    }
    Ok((types.finish(Rules::Kernel)?, funcs))
}
