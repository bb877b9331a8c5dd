//! Test runs: the same sizes, values and errnos as the running kernel's BPF_PROG_TEST_RUN.

mod common;

use common::{Input, compare, packet};
use skep_abi::ProgType;

fn ctx(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

const LENGTH: &str = "r2 = *(u32 *)(r1 +0)\nr0 = *(u32 *)(r1 +4)\nr0 -= r2\nexit";

#[test]
fn xdp_packet_sizes() {
    let lengths = [0, 1, 13, 14, 15, 60, 1500, 3519, 3520, 3521, 5000, 65535];
    let inputs: Vec<Input> =
        lengths.iter().map(|&len| Input { data: packet(len, 0x0800), ..Input::default() }).collect();
    compare(ProgType::Xdp, LENGTH, &[], &inputs);
}

#[test]
fn xdp_contexts() {
    let contexts: Vec<Vec<u8>> = vec![
        ctx(&[0, 300, 0, 0, 0, 0]),
        ctx(&[4, 300, 0, 0, 0, 0]),
        ctx(&[216, 300, 0, 0, 0, 0]),
        ctx(&[220, 300, 0, 0, 0, 0]),
        ctx(&[3, 300, 0, 0, 0, 0]),
        ctx(&[0, 50, 0, 0, 0, 0]),
        ctx(&[0, 301, 0, 0, 0, 0]),
        ctx(&[0, 0, 0, 0, 0, 0]),
        ctx(&[4, 300, 4, 0, 0, 0]),
        ctx(&[0, 300, 0, 1, 0, 0]),
        ctx(&[0, 300, 0, 0, 1, 0]),
        ctx(&[0, 300, 0, 0, 0, 1]),
        ctx(&[0, 300, 0]),
        ctx(&[0, 300, 0, 0, 0, 0, 0, 0]),
        ctx(&[0, 300, 0, 0, 0, 0, 0, 1]),
    ];
    let inputs: Vec<Input> =
        contexts.into_iter().map(|ctx| Input { data: packet(300, 0x0800), ctx: Some(ctx), repeat: 0 }).collect();
    compare(ProgType::Xdp, LENGTH, &[], &inputs);
    compare(ProgType::Xdp, "r0 = *(u32 *)(r1 +12)\nexit", &[], &inputs);
}

#[test]
fn skb_packet_sizes() {
    for prog_type in [ProgType::SchedCls, ProgType::SocketFilter, ProgType::LwtIn] {
        let mut inputs = Vec::new();
        for protocol in [0x0800, 0x86dd, 0x0806, 0x0042] {
            for len in [0, 13, 14, 15, 33, 34, 35, 53, 54, 60, 1500, 3712, 3713, 4000] {
                inputs.push(Input { data: packet(len, protocol), ..Input::default() });
            }
        }
        compare(prog_type, "r0 = *(u32 *)(r1 +0)\nexit", &[], &inputs);
    }
}

#[test]
fn skb_fields_of_a_fresh_packet() {
    let mut inputs = Vec::new();
    for first in [0_u8, 1, 2, 0xff] {
        let mut data = packet(60, 0x0800);
        data[..6].fill(first);
        inputs.push(Input { data, ..Input::default() });
    }
    for offset in [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 64, 68, 72, 160, 164, 176] {
        compare(ProgType::SchedCls, &format!("r0 = *(u32 *)(r1 +{offset})\nexit"), &[], &inputs);
    }
    compare(ProgType::SchedCls, "r0 = *(u64 *)(r1 +152)\nexit", &[], &inputs);
}

#[test]
fn skb_contexts() {
    let mut inputs = Vec::new();
    for at in (0..192).step_by(4) {
        let mut ctx = vec![0; 192];
        ctx[at] = 1;
        inputs.push(Input { data: packet(60, 0x0806), ctx: Some(ctx), repeat: 0 });
    }
    for (at, value) in [(160, 60), (160, 59), (160, 65536), (160, 65537), (164, 65535), (164, 65536_u32)] {
        let mut ctx = vec![0; 192];
        ctx[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        inputs.push(Input { data: packet(60, 0x0806), ctx: Some(ctx), repeat: 0 });
    }
    for len in [0, 8, 40, 184, 200] {
        inputs.push(Input { data: packet(60, 0x0806), ctx: Some(vec![0; len]), repeat: 0 });
    }
    // What a program writes is in the context afterwards.
    let text = "
        r2 = *(u32 *)(r1 +8)
        r2 += 7
        *(u32 *)(r1 +8) = r2
        *(u32 *)(r1 +32) = r2
        *(u32 *)(r1 +48) = r2
        *(u32 *)(r1 +64) = r2
        *(u64 *)(r1 +152) = r2
        r0 = *(u32 *)(r1 +160)
        exit";
    compare(ProgType::SchedCls, text, &[], &inputs);
    compare(ProgType::SocketFilter, "r0 = *(u32 *)(r1 +48)\nexit", &[], &inputs);
}

#[test]
fn raw_tracepoint_arguments() {
    let inputs: Vec<Input> = [0, 8, 15, 16, 96, 97, 104]
        .iter()
        .map(|&len| Input { data: Vec::new(), ctx: Some((1..=len).collect()), repeat: 0 })
        .collect();
    compare(ProgType::RawTracepoint, "r0 = *(u64 *)(r1 +8)\nexit", &[], &inputs);
}

#[test]
fn repeated_runs_share_the_buffer() {
    let text = "
        r6 = r1
        r2 = -4
        call bpf_xdp_adjust_head#44
        if r0 != 0 goto fail
        r2 = *(u32 *)(r6 +0)
        r3 = *(u32 *)(r6 +4)
        r4 = r2
        r4 += 14
        if r4 > r3 goto fail
        r0 = 1
        *(u32 *)(r2 +0) = r0
        r0 = r3
        r0 -= r2
        exit
        fail:
        r0 = 0
        exit";
    let inputs: Vec<Input> =
        [0, 1, 3, 60].iter().map(|&repeat| Input { data: packet(64, 0x0800), ctx: None, repeat }).collect();
    compare(ProgType::Xdp, text, &[], &inputs);
}
