//! How waits begin and end.

use super::*;

#[test]
fn waiting_ends_at_its_time() {
    on_all(|mut bench| {
        let (near, _far) = pair();
        let token = bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
        bench.turn(0);
        let start = bench.driver.now();
        let until = start.after(Duration::from_millis(50));
        while bench.driver.now() < until {
            bench.driver.wait(Some(until), &mut bench.out).unwrap();
            assert!(bench.out.is_empty());
        }
        let slept = bench.driver.now().since(start);
        assert!(slept < Duration::from_secs(10), "{slept:?}");
        let enters = bench.driver.stats().enters;
        let past = bench.driver.now();
        bench.driver.wait(Some(past), &mut bench.out).unwrap();
        assert!(bench.driver.stats().enters <= enters + 1);
        bench.driver.cancel(token);
        bench.one();
        bench.finish();
    });
}

#[test]
fn wakers_end_a_sleep_from_any_thread_and_coalesce() {
    on_all(|mut bench| {
        let waker = bench.driver.waker();
        waker.wake();
        bench.driver.wait(None, &mut bench.out).unwrap();
        for _ in 0..50 {
            let waker = bench.driver.waker();
            let thread = std::thread::Builder::new()
                .spawn(move || {
                    std::thread::sleep(Duration::from_millis(1));
                    (0..1000).for_each(|_| waker.wake());
                })
                .unwrap();
            bench.driver.wait(None, &mut bench.out).unwrap();
            assert!(bench.out.is_empty());
            thread.join().unwrap();
        }
        assert!(bench.driver.stats().wakes >= 50);
        let stats = bench.driver.stats();
        assert!(stats.completions <= 110, "a storm of wakes writes once: {stats:?}");
        bench.finish();
    });
}

/// Nothing that happens in a sleep that lasts on is lost, and its time ends it.
#[test]
fn a_sleep_that_lingers_loses_nothing() {
    on_all(|mut bench| {
        let linger = Duration::from_micros(100);
        let (near, mut far) = pair();
        for round in 0..20u8 {
            bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
            let waker = bench.driver.waker();
            let wakes = bench.driver.stats().wakes;
            let mut done = std::thread::scope(|scope| {
                scope.spawn(|| {
                    far.write_all(&[round]).unwrap();
                    waker.wake();
                });
                let mut done = Vec::new();
                while done.is_empty() || bench.driver.stats().wakes == wakes {
                    bench.driver.linger(linger);
                    done.extend(bench.turn(1000));
                }
                done
            });
            assert_eq!(done.len(), 1);
            let done = done.pop().expect("one");
            assert_eq!((done.result, bench.bytes(&done.op, 1)), (Ok(1), vec![round]));
            bench.give_all(done.op);
        }
        let soon = bench.driver.now().after(linger);
        bench.driver.linger(Duration::from_secs(3600));
        bench.driver.wait(Some(soon), &mut bench.out).unwrap();
        assert!(bench.out.is_empty());
        bench.finish();
    });
}

/// What has completed on the spot does not cut such a sleep short: an answer to it comes along.
#[test]
fn a_send_is_no_reason_not_to_linger() {
    const ROUNDS: u32 = 50;
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let together = (0..ROUNDS).any(|_| {
            let into = Target::Owned { lease: bench.packet(), spans: spans(&[(0, 2), (9, 99)]) };
            bench.submit(1, Op::Recv { fd: raw(&near), into });
            let chunk = (bench.filled(Class::Packet, 1), Span::new(0, 100));
            bench.submit(2, Op::Send { fd: raw(&near), from: gather([chunk]) });
            let mut done = std::thread::scope(|scope| {
                scope.spawn(|| {
                    far.read_exact(&mut [0; 100]).unwrap();
                    far.write_all(b"answer").unwrap();
                });
                bench.driver.linger(Duration::from_millis(20));
                bench.turn(1000)
            });
            let together = done.len() == 2;
            while done.len() < 2 {
                done.extend(bench.turn(1000));
            }
            done.into_iter().for_each(|done| bench.give_all(done.op));
            together
        });
        assert!(together, "each send ended the sleep");
        bench.finish();
    });
}
