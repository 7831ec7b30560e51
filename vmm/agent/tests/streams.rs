//! Standard streams and terminals.
#![allow(missing_docs)]

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bulkhead_protocol::call::Code;
use bulkhead_protocol::messages::*;
use guest::{Guest, exec, named, process, refusal, start, wait};
use serde_json::json;

#[test]
fn much_output_arrives_whole_and_in_order() {
    let guest = Guest::start();
    let mut client = guest.client();
    let [(stdin, mut input), (stdout, mut output), (stderr, mut errors)] = [guest.stream(), guest.stream(), guest.stream()];
    let mut request = guest.request("web", &["sh", "-c", "cat; exec >&2; seq 1 200000"], |_| {});
    request.stdio = Some(Stdio { stdin, stdout, stderr, ..Stdio::default() }).into();
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    let sent: Vec<u8> = (0..8_000_000u32).map(|index| (index / 3) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        input.write_all(&copy).unwrap();
        input.shutdown(std::net::Shutdown::Write).unwrap();
        // The other direction of the connection stays open meanwhile.
        input
    });
    let mut received = Vec::new();
    output.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} of {}", received.len(), sent.len());
    drop(writer.join().unwrap());
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=200_000));
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 0);
}

#[test]
fn what_was_written_is_delivered_before_the_end_is_told() {
    let guest = Guest::start();
    let mut client = guest.client();
    for round in 0..20 {
        let id = format!("web{round}");
        let (stdout, output) = guest.stream();
        let mut request = guest.request(&id, &["sh", "-c", "seq 1 5000"], |_| {});
        request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
        client.create(&request).unwrap();
        client.start(&start(&id, "")).unwrap();
        client.wait(&wait(&id, "")).unwrap();
        output.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        let _ = (&output).read_to_end(&mut text);
        assert_eq!(text.len(), 23_893, "round {round}");
        client.delete(&named(&id)).unwrap();
    }
}

#[test]
fn a_child_that_keeps_the_output_does_not_keep_the_end() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sleep", "1000"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    let (stdout, mut output) = guest.stream();
    let mut request = exec("web", "one", process(&["sh", "-c", "(sleep 0.5; echo late) & echo early; exit 4"]));
    request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
    client.exec(&request).unwrap();
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 4);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "early\nlate\n");
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe() {
    let guest = Guest::start();
    let mut client = guest.client();
    let (stdout, output) = guest.stream();
    let mut request = guest.request("web", &["sh", "-c", "yes; echo $? >&2"], |_| {});
    request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    drop(output);
    // The shell goes on: what yes was ended by is its own affair.
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 0);
}

/// Reads until a text has come, and nothing of what comes after it.
fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(wanted) {
        match stream.read(&mut byte) {
            Ok(0) | Err(_) => panic!("{wanted:?} is not in {text:?}"),
            Ok(_) => text.push(byte[0].into()),
        }
    }
    text
}

#[test]
fn a_terminal_is_the_containers_own() {
    let guest = Guest::start();
    let mut client = guest.client();
    let (console, mut stream) = guest.stream();
    let script = "tty; stty size; stat -c %u $(tty); test -c /dev/console && echo console; ps -o stat= -p $$; \
                  trap 'stty size; exit 3' WINCH; read line; echo \"got $line\"; while :; do sleep 0.1; done";
    let mut request = guest.request("web", &["sh", "-c", script], |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    request.stdio = Some(Stdio { terminal: true, console, rows: 40, columns: 132, ..Stdio::default() }).into();
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    let shown = read_until(&mut stream, "console\r\n");
    assert!(shown.contains("/dev/pts/0\r\n40 132\r\n1000\r\n"), "{shown:?}");
    // It leads its session, in the foreground.
    read_until(&mut stream, "s+\r\n");
    stream.write_all(b"typed\n").unwrap();
    let shown = read_until(&mut stream, "got typed\r\n");
    assert!(shown.contains("typed\r\n"), "no echo: {shown:?}");
    let size = |rows, columns| ResizeTerminalRequest { container_id: "web".into(), rows, columns, ..ResizeTerminalRequest::new() };
    client.resize_terminal(&size(50, 100)).unwrap();
    read_until(&mut stream, "50 100\r\n");
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 3);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let none = refusal(client.resize_terminal(&size(1, 1)));
    assert_eq!((none.code, none.message.as_str()), (Code::FailedPrecondition, "resizing the terminal of container web: it has none"));
}

#[test]
fn an_exec_has_a_terminal_and_is_hung_up_on() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sleep", "1000"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    let (console, mut stream) = guest.stream();
    let mut request = exec("web", "one", process(&["sh", "-c", "trap 'exit 6' HUP; tty; while :; do sleep 0.1; done"]));
    request.stdio = Some(Stdio { terminal: true, console, ..Stdio::default() }).into();
    client.exec(&request).unwrap();
    read_until(&mut stream, "/dev/pts/0\r\n");
    drop(stream);
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 6);
    let mut request = exec("web", "two", process(&["true"]));
    request.stdio = Some(Stdio { terminal: true, ..Stdio::default() }).into();
    assert_eq!(refusal(client.exec(&request)).message, "stdio.console: a terminal without a stream");
}

#[test]
fn closed_streams_are_empty() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sh", "-c", "test -z \"$(cat)\" && readlink /proc/self/fd/1 | grep -q null"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 1);
}
