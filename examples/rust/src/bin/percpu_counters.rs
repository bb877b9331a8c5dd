//! Prints what each virtual CPU counted (docs/tutorial-percpu.md).

use skep::{Engine, Xdp};
use skep_examples::percpu_counters::{Error, Open, Skeleton};

const THREADS: usize = 2;
const PACKETS: usize = 500_000;

fn main() -> Result<(), Error> {
    let engine = Engine::builder().vcpus(THREADS).build()?;

    // Before load there is one image for all virtual CPUs, and it can be changed.
    let mut open = Open::new()?;
    open.percpu.hits = 1000;
    let skeleton = open.load(&engine)?;

    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let skeleton = skeleton.clone();
            std::thread::spawn(move || work(&skeleton))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }

    // After load each virtual CPU has values of its own; the image still says what they began with.
    let before = skeleton.percpu_initial().hits;
    for (cpu, counters) in skeleton.percpu()?.iter().enumerate() {
        println!("vCPU {cpu}: {} packets, {} bytes", counters.hits - before, counters.bytes);
    }
    let packets = skeleton.percpu_sum(|counters| counters.hits - before)?;
    let bytes = skeleton.percpu_sum(|counters| counters.bytes)?;
    println!("all: {packets} packets, {bytes} bytes");
    Ok(())
}

/// Each run takes a virtual CPU, so `hits++` loses nothing, whichever thread runs where.
fn work(skeleton: &Skeleton) -> Result<(), Error> {
    let mut packet = Xdp::packet(&[0; 64]).build()?;
    for _ in 0..PACKETS {
        skeleton.progs.count.run(&mut packet)?;
    }
    Ok(())
}
