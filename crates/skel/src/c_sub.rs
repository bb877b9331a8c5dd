//! The C subskeleton: the header that users of `bpftool gen subskeleton` know.
//!
//! Owns its text. A library that is linked into an object by `gen object` knows its own variables, maps and programs; its
//! subskeleton finds them in the whole object when that is loaded. Invariant: a variable is a pointer into the map's memory, so
//! variables of `.percpu` sections, which have a copy on each CPU, are left out. Kernel counterpart: `do_subskeleton`,
//! tools/bpf/bpftool/gen.c, 6.18.

use std::fmt::Write as _;

use skep_btf::Kind;
use skep_btf::dump::{CDump, Style};
use skep_object::{MapKind, ObjectSpec};

use crate::c::{COptions, declare, member_address, quoted, write_group, write_prologue, write_table};
use crate::error::{Error, Result};
use crate::names::{self, NamedMap, ident};
use crate::section;

/// A variable: its name in the object, and its pointer as a declaration.
struct Variable {
    name: String,
    declaration: String,
}

struct Section<'a> {
    named: &'a NamedMap<'a>,
    variables: Vec<Variable>,
}

struct Parts<'a> {
    name: &'a str,
    maps: &'a [NamedMap<'a>],
    programs: Vec<(&'a str, String)>,
    sections: Vec<Section<'a>>,
    definitions: String,
}

/// The header for `object`; `name` is the prefix of everything in it.
pub fn c_subskeleton(object: &ObjectSpec, name: &str, options: &COptions) -> Result<String> {
    let maps = names::maps(object)?;
    let programs = names::programs(object)?;
    let mut definitions = String::new();
    let sections = sections(object, &maps, options.define_types.then_some(&mut definitions))?;
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut out, &Parts { name, maps: &maps, programs, sections, definitions });
    Ok(out)
}

fn sections<'a>(
    object: &ObjectSpec,
    maps: &'a [NamedMap<'a>],
    definitions: Option<&mut String>,
) -> Result<Vec<Section<'a>>> {
    let mut out = Vec::new();
    let Some(btf) = object.btf.as_deref() else { return Ok(out) };
    let mut dump = CDump::new(btf).with_style(Style { strip_qualifiers: true, after_uapi: true });
    for named in maps.iter().filter(|m| section::is_visible(m.map) && m.map.kind != MapKind::PerCpu) {
        let mut variables = Vec::new();
        for field in section::fields(object, named.index, named.map)? {
            let failed = |source| Error::Type { variable: field.name.clone(), section: named.map.name.clone(), source };
            if definitions.is_some() {
                dump.emit_for(field.ty).map_err(failed)?;
            }
            // A pointer to an array is not an array of pointers.
            let is_array = btf.kind(btf.skip_qualifiers(field.ty)) == Kind::Array;
            let plain = ident(&field.name);
            let pointer = if is_array { format!("(*{plain})") } else { format!("*{plain}") };
            let declaration = dump.declaration_indented(field.ty, &pointer, 2).map_err(failed)?;
            variables.push(Variable { name: field.name.clone(), declaration });
        }
        if !variables.is_empty() {
            out.push(Section { named, variables });
        }
    }
    if let Some(definitions) = definitions {
        *definitions = dump.into_text();
    }
    Ok(out)
}

fn write_all(out: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let name = parts.name;
    let guard = format!("__{}_SUBSKEL_H__", name.to_uppercase());
    write_prologue(out, &guard, ["stdlib.h", "bpf/libbpf.h"])?;
    out.push_str(&parts.definitions);
    write_struct(out, parts)?;
    write_destroy(out, name)?;
    write_open(out, parts)?;
    write!(
        out,
        "#ifdef __cplusplus\n\
         struct {name} *{name}::open(const struct bpf_object *src) {{ return {name}__open(src); }}\n\
         void {name}::destroy(struct {name} *skel) {{ {name}__destroy(skel); }}\n\
         #endif /* __cplusplus */\n\n#endif /* {guard} */\n"
    )
}

fn write_struct(out: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let name = parts.name;
    write!(out, "struct {name} {{\n\tstruct bpf_object *obj;\n\tstruct bpf_object_subskeleton *subskel;\n")?;
    write_group(out, "bpf_map", "maps", parts.maps.iter().map(|map| &map.ident))?;
    write_group(out, "bpf_program", "progs", parts.programs.iter().map(|(_, ident)| ident))?;
    for section in &parts.sections {
        let field = &section.named.ident;
        writeln!(out, "\tstruct {name}__{field} {{")?;
        for Variable { name, declaration } in &section.variables {
            declare(out, declaration, &ident(name))?;
        }
        writeln!(out, "\t}} {field};")?;
    }
    write!(
        out,
        "\n#ifdef __cplusplus\n\
         \tstatic inline struct {name} *open(const struct bpf_object *src);\n\
         \tstatic inline void destroy(struct {name} *skel);\n\
         #endif /* __cplusplus */\n}};\n\n"
    )
}

fn write_destroy(out: &mut String, name: &str) -> std::fmt::Result {
    write!(
        out,
        "static inline void
{name}__destroy(struct {name} *obj)
{{
	if (!obj)
		return;
	if (obj->subskel)
		bpf_object__destroy_subskeleton(obj->subskel);
	free(obj);
}}

"
    )
}

fn write_open(out: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let Parts { name, maps, programs, sections, .. } = parts;
    write!(
        out,
        "static inline struct {name} *
{name}__open(const struct bpf_object *src)
{{
	struct bpf_object_subskeleton *s;
	int err = -ENOMEM;
	struct {name} *obj;

	obj = (struct {name} *)calloc(1, sizeof(*obj));
	s = (struct bpf_object_subskeleton *)calloc(1, sizeof(*s));
	if (!obj || !s) {{
		free(s);
		goto err;
	}}
	obj->subskel = s;
	s->sz = sizeof(*s);
	s->obj = src;
"
    )?;
    write_table(out, "variables", "var", sections.iter().map(|section| section.variables.len()).sum())?;
    let variables = sections.iter().flat_map(|section| section.variables.iter().map(move |v| (section.named, v)));
    for (index, (named, variable)) in variables.enumerate() {
        writeln!(out, "\n\ts->vars[{index}].name = \"{}\";", quoted(&variable.name))?;
        member_address(out, &format!("s->vars[{index}].map = "), "obj->maps.", &named.ident)?;
        let base = format!("obj->{}.", named.ident);
        member_address(out, &format!("s->vars[{index}].addr = (void **)"), &base, &ident(&variable.name))?;
    }
    write_table(out, "maps", "map", maps.len())?;
    for (index, map) in maps.iter().enumerate() {
        // Sections go by their own name: the object that they are found in has another.
        writeln!(out, "\n\ts->maps[{index}].name = \"{}\";", quoted(&map.map.name))?;
        member_address(out, &format!("s->maps[{index}].map = "), "obj->maps.", &map.ident)?;
    }
    write_table(out, "programs", "prog", programs.len())?;
    for (index, (program, ident)) in programs.iter().enumerate() {
        writeln!(out, "\n\ts->progs[{index}].name = \"{}\";", quoted(program))?;
        member_address(out, &format!("s->progs[{index}].prog = "), "obj->progs.", ident)?;
    }
    write!(
        out,
        "
	err = bpf_object__open_subskeleton(s);
	if (err)
		goto err;
	return obj;
err:
	{name}__destroy(obj);
	errno = -err;
	return NULL;
}}

"
    )
}
