//! An extension point in a server: programs decide about requests, on the server's own struct, and are replaced while
//! threads call them.
//!
//! The C side is examples/request_filter/request_filter.bpf.c. Run with `cargo run -p skep --example embedder`.

use skep::{CtxField, CtxFieldKind, CtxLayout, Engine, Object, Slot, UserContext};

/// What a program gets in r1; `struct request` of the C source.
#[repr(C)]
struct Request {
    client: u32,
    port: u16,
    is_tls: u8,
    pad: u8,
    priority: u32,
    pad2: u32,
    body: u64,
    body_end: u64,
}

impl Request {
    fn new(client: u32, is_tls: bool, body: &'static [u8]) -> Self {
        let range = body.as_ptr_range();
        Self {
            client,
            port: 443,
            is_tls: u8::from(is_tls),
            pad: 0,
            priority: 0,
            pad2: 0,
            body: range.start.expose_provenance() as u64,
            body_end: range.end.expose_provenance() as u64,
        }
    }
}

// SAFETY: the struct is repr(C) without hidden padding, any value of `priority` is valid, and the body's pointers are those
// of a static slice, which nobody writes: programs cannot, since the verifier lets them only read a packet of this context.
unsafe impl UserContext for Request {
    fn layout() -> CtxLayout {
        let fields = vec![
            CtxField::word("client", 0),
            CtxField::word("port", 4).sized(2),
            CtxField::word("is_tls", 6).sized(1),
            CtxField::word("priority", 8).writable(),
            CtxField::new("body", 16, 8, CtxFieldKind::PacketData),
            CtxField::new("body_end", 24, 8, CtxFieldKind::PacketEnd),
        ];
        CtxLayout::new("request", 32, fields)
    }

    fn packet(&self) -> Option<(u64, u64)> {
        Some((self.body, self.body_end))
    }
}

fn open() -> Result<Object, skep::ObjectError> {
    Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/request_filter.bpf.o"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().context::<Request>("request").build()?;
    let slot: Slot<Request> = engine.slot(open()?)?;
    let serve = |client, body| -> Result<(), Box<dyn std::error::Error>> {
        let mut request = Request::new(client, true, body);
        let verdict = if slot.run(&mut request)? == 0 { "accept" } else { "reject" };
        println!("client {client}: {verdict}, priority {}", request.priority);
        Ok(())
    };
    for _ in 0..4 {
        serve(7, b"GET / HTTP/1.1")?;
    }
    serve(8, b"GET")?;

    println!("a stricter version, which knows the clients of the one before:");
    let stricter = open()?.set_rodata("requests_per_client", 1u64)?;
    let old = slot.swap(stricter.adopt_maps(&["clients"])?)?;
    old.drained()?;
    let mut request = Request::new(8, true, b"POST /");
    println!("client 8: {}", if slot.run(&mut request)? == 0 { "accept" } else { "reject" });
    Ok(())
}
