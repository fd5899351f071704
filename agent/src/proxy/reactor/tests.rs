//! A reactor with real sockets and threads.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::proxy::socket::Socket;

const TICK: Duration = Duration::from_millis(5);

/// Runs what it is given with a reactor, until it says that it is done.
fn with_reactor<T: 'static>(body: impl AsyncFnOnce(Rc<Reactor>) -> T + 'static) -> T {
    let reactor = Reactor::enter().unwrap();
    let result = Rc::new(RefCell::new(None));
    let (kept, inner) = (Rc::clone(&result), Rc::clone(&reactor));
    reactor.spawn(async move {
        let outcome = body(inner).await;
        *kept.borrow_mut() = Some(outcome);
    });
    let began = Instant::now();
    reactor
        .run(&mut BusyPoll::new(Duration::from_micros(50)), TICK, || {
            assert!(began.elapsed() < Duration::from_secs(60), "the task isn't over");
            match result.borrow().is_some() {
                true => Turn::Stop,
                false => Turn::On,
            }
        })
        .unwrap();
    result.take().unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, peer)
}

#[test]
fn a_socket_is_read_to_its_end_in_however_many_pieces() {
    let (ours, mut peer) = pair();
    let writer = std::thread::spawn(move || {
        for piece in 0..50_u8 {
            peer.write_all(&[piece; 1000]).unwrap();
            if piece % 10 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    });
    let read = with_reactor(async |_| {
        let mut socket = Socket::new(ours).unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        all
    });
    writer.join().unwrap();
    let expected: Vec<u8> = (0..50_u8).flat_map(|piece| [piece; 1000]).collect();
    assert!(read == expected);
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_seen() {
    let (ours, mut peer) = pair();
    peer.write_all(b"last").unwrap();
    drop(peer);
    let (first, second) = with_reactor(async |_| {
        let mut socket = Socket::new(ours).unwrap();
        let mut buffer = [0; 64];
        let first = socket.read(&mut buffer).await.unwrap();
        (first, socket.read(&mut buffer).await.unwrap())
    });
    assert_eq!((first, second), (4, 0));
}

#[test]
fn a_full_socket_is_written_when_the_peer_reads() {
    use std::io::Read as _;
    use tokio::io::AsyncWriteExt as _;
    let (ours, mut peer) = pair();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all.len()
    });
    with_reactor(async |_| {
        let mut socket = Socket::new(ours).unwrap();
        socket.write_all(&vec![7; 20 << 20]).await.unwrap();
        socket.shutdown().await.unwrap();
    });
    assert_eq!(reader.join().unwrap(), 20 << 20);
}

#[test]
fn other_threads_and_tasks_wake_a_task() {
    let (to, mut from) = mpsc::unbounded_channel();
    let sender = std::thread::spawn(move || {
        for number in 0..1000 {
            to.send(number).unwrap();
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let sum = with_reactor(async move |reactor| {
        let (done, is_done) = oneshot::channel();
        reactor.spawn(async move {
            let mut sum = 0;
            while let Some(number) = from.recv().await {
                sum += number;
            }
            done.send(sum).unwrap();
        });
        is_done.await.unwrap()
    });
    sender.join().unwrap();
    assert_eq!(sum, 999 * 1000 / 2);
}

#[test]
fn one_that_always_finds_something_lets_others_have_their_turn() {
    let (ours, mut peer) = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) && peer.write_all(&[1; 64 << 10]).is_ok() {}
    });
    let turns = with_reactor(async move |reactor| {
        reactor.spawn(async move {
            let mut socket = Socket::new(ours).unwrap();
            // So few at a time that the socket is never empty.
            let mut buffer = [0; 16];
            while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        let mut turns = 0;
        for _ in 0..20 {
            let (done, is_done) = oneshot::channel();
            reactor.spawn(async move { done.send(()).unwrap() });
            is_done.await.unwrap();
            turns += 1;
        }
        turns
    });
    stop.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    assert_eq!(turns, 20);
}

#[test]
fn a_task_that_panics_takes_no_other_with_it() {
    let outcome = with_reactor(async |reactor| {
        let (done, is_done) = oneshot::channel::<()>();
        reactor.spawn(async move {
            let _held = done;
            panic!("as it should");
        });
        is_done.await.is_err()
    });
    assert!(outcome);
}

#[test]
fn what_sockets_and_tasks_held_is_given_back() {
    let reactor = Reactor::enter().unwrap();
    let (ours, _peer) = pair();
    let held = Rc::new(());
    let kept = Rc::clone(&held);
    reactor.spawn(async move {
        let _kept = kept;
        let mut socket = Socket::new(ours).unwrap();
        let _ = socket.read(&mut [0]).await;
    });
    let mut ticks = 0;
    reactor
        .run(&mut BusyPoll::new(Duration::ZERO), TICK, || {
            ticks += 1;
            match ticks == 2 {
                true => Turn::Stop,
                false => Turn::On,
            }
        })
        .unwrap();
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(reactor.sources.borrow().is_empty() && reactor.tasks.borrow().is_empty());
}

#[test]
fn what_is_asked_goes_out_before_what_is_answered() {
    let order = with_reactor(async |reactor| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let (registered, all_registered) = oneshot::channel();
        let mut registered = Some(registered);
        let mut peers = Vec::new();
        let (over, mut ended) = mpsc::unbounded_channel();
        for number in 0..4 {
            let (ours, peer) = pair();
            peers.push(peer);
            let (order, over) = (Rc::clone(&order), over.clone());
            let registered = (number == 3).then(|| registered.take()).flatten();
            reactor.spawn(async move {
                let mut socket = Socket::new(ours).unwrap();
                let leads_to_target = number % 2 == 0;
                if let (Socket::Worker(registration, _), true) = (&socket, leads_to_target) {
                    registration.answers();
                }
                if let Some(registered) = registered {
                    registered.send(()).unwrap();
                }
                socket.read_u8().await.unwrap();
                order.borrow_mut().push(leads_to_target);
                over.send(()).unwrap();
            });
        }
        all_registered.await.unwrap();
        // The thread is here and doesn't ask the kernel: it learns of all four together.
        for peer in &mut peers {
            peer.write_all(&[1]).unwrap();
        }
        for _ in 0..4 {
            ended.recv().await;
        }
        order.take()
    });
    assert_eq!(order, [false, false, true, true]);
}
