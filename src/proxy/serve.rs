//! The inner half: clients of the step, one thread each.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::body::{self, Body};
use super::head::{self, Request};
use super::{Ask, Via};

/// Clients at a time; uv asks with fifty.
const CLIENTS: usize = 256;
/// How long a client may take to say what it wants, and a host to answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// What became of an [`Ask`].
pub enum Dialed {
    /// Connected, perhaps through a proxy of the machine.
    Open(TcpStream, Option<Via>),
    /// Nobody admitted it.
    Refused,
    /// Why it cannot be reached.
    Failed(String),
}

/// Opens a connection.
pub type Dial = dyn Fn(&Ask) -> Dialed + Send + Sync;
/// Is told, before the client is, that a client was refused.
pub type Refused = dyn Fn(SocketAddr, &Ask) + Send + Sync;

/// What the proxy needs of the world.
#[expect(missing_docs, reason = "the types say it")]
pub struct Doors {
    pub dial: Box<Dial>,
    pub refused: Box<Refused>,
}

/// Serves `listener` until it fails. Starts threads: never in a process that forks afterwards.
pub fn serve(listener: &TcpListener, doors: Doors) -> io::Result<()> {
    let (doors, clients) = (Arc::new(doors), Arc::new(AtomicUsize::new(0)));
    loop {
        let (stream, from) = listener.accept()?;
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            // Not waited for: others want to be let in.
            let _ = write_answer(&stream, "503 Too Many Clients", "The proxy of dropcloth has too many clients.");
            continue;
        }
        let (doors, own) = (Arc::clone(&doors), Arc::clone(&clients));
        let client = move || {
            // A client or a host that goes away ends its connection, and nothing else.
            let _ = attend(&stream, from, &doors);
            let _ = stream.shutdown(Shutdown::Both);
            own.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().stack_size(256 << 10).spawn(client).is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One client: requests one after the other, or one tunnel.
fn attend(client: &TcpStream, from: SocketAddr, doors: &Doors) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    loop {
        let Some(head) = body::head(&mut reader)? else { return Ok(()) };
        let request = match head::request(&head) {
            Ok(request) => request,
            Err(why) => {
                return say(
                    client,
                    "400 Bad Request",
                    &format!("The proxy of dropcloth takes no such request: {why}."),
                );
            }
        };
        match (doors.dial)(&request.ask) {
            Dialed::Refused => {
                (doors.refused)(from, &request.ask);
                let allow = request.ask.short();
                let reason = format!("403 Not Admitted (dropcloth --allow {allow})");
                return say(
                    client,
                    &reason,
                    &format!("dropcloth does not lead to {allow}: `dropcloth run --allow {allow}` does."),
                );
            }
            Dialed::Failed(why) => {
                return say(
                    client,
                    "502 Bad Gateway",
                    &format!("dropcloth cannot reach {}: {why}.", request.ask.short()),
                );
            }
            Dialed::Open(host, _) if request.ask.tunnel => return tunnel(client, reader, &host),
            Dialed::Open(host, via) => {
                if !exchange(client, &mut reader, &request, &host, via.as_ref())? {
                    return Ok(());
                }
            }
        }
    }
}

fn write_answer(mut client: &TcpStream, status: &str, text: &str) -> io::Result<()> {
    let length = text.len() + 1;
    let fields = format!("Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close");
    client.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{text}\n").as_bytes())
}

/// A response of the proxy's own, after which the connection ends.
fn say(client: &TcpStream, status: &str, text: &str) -> io::Result<()> {
    write_answer(client, status, text)?;
    // Closing with something unread resets the connection, and the client would not see the response.
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut io::Read::take(client, 1 << 20), &mut io::sink()).map(drop)
}

fn tunnel(mut client: &TcpStream, reader: BufReader<&TcpStream>, mut host: &TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    // Some clients do not wait for that.
    host.write_all(reader.buffer())?;
    host.set_nodelay(true)?;
    client.set_read_timeout(None)?;
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        let result = io::copy(&mut from, &mut to);
        // One side may be done while the other still sends; after an error nobody waits for anybody.
        let _ = to.shutdown(Shutdown::Write);
        if result.is_err() {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        }
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, || one_way(client, host))?;
        one_way(host, client);
        Ok(())
    })
}

/// One request of plain http. Whether the client's connection goes on.
fn exchange(
    mut client: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    request: &Request,
    mut host: &TcpStream,
    via: Option<&Via>,
) -> io::Result<bool> {
    host.set_read_timeout(Some(PATIENCE))?;
    host.write_all(&request.passed_on(via))?;
    if request.expects && request.body != Body::Empty {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    body::copy(reader, &mut host, request.body)?;
    let mut from_host = BufReader::new(host);
    let reply = loop {
        let head = body::head(&mut from_host)?;
        match head.ok_or("it closed the connection").and_then(|head| head::reply(&head, &request.method)) {
            Ok(reply) if (100..200).contains(&reply.status) && reply.status != 101 => {}
            Ok(reply) => break reply,
            Err(why) => {
                say(
                    client,
                    "502 Bad Gateway",
                    &format!("{} gave no answer that can be read: {why}.", request.ask.short()),
                )?;
                return Ok(false);
            }
        }
    };
    let keeps = request.keeps && reply.body != Body::UntilEnd;
    client.write_all(&reply.passed_back(keeps))?;
    body::copy(&mut from_host, &mut client, reply.body)?;
    Ok(keeps)
}
