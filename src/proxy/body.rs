//! Heads and bodies of messages, as far as a proxy has to know where they end: RFC 9112.

use std::io::{self, BufRead, Read, Write};

/// The longest head that is read, and the longest line of a chunked body.
const HEAD: u64 = 64 << 10;
const LINE: u64 = 4 << 10;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    UntilEnd,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A line with its end, of at most `left` bytes.
fn line(reader: &mut impl BufRead, left: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    let read = reader.take(left).read_until(b'\n', into)? as u64;
    if read == left {
        return Err(bad("a line is too long"));
    }
    Ok(read)
}

/// The next head with the empty line behind it; `None` where the connection ends before it begins.
pub fn head(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let read = line(reader, HEAD - before as u64, &mut head)?;
        match &head[before..] {
            _ if read == 0 && before == 0 => return Ok(None),
            _ if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // RFC 9112 2.2: empty lines before a message are passed over.
            b"\r\n" | b"\n" if before == 0 => head.clear(),
            b"\r\n" | b"\n" => return Ok(Some(head)),
            _ => {}
        }
    }
}

/// Passes a body on as it is.
pub fn copy(reader: &mut impl BufRead, writer: &mut impl Write, body: Body) -> io::Result<()> {
    match body {
        Body::Empty => Ok(()),
        Body::Length(length) => exactly(reader, writer, length),
        Body::UntilEnd => io::copy(reader, writer).map(drop),
        Body::Chunked => chunks(reader, writer),
    }
}

fn exactly(reader: &mut impl BufRead, writer: &mut impl Write, length: u64) -> io::Result<()> {
    if io::copy(&mut reader.take(length), writer)? == length {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn chunks(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<()> {
    loop {
        let mut size_line = Vec::new();
        line(reader, LINE, &mut size_line)?;
        let text = String::from_utf8_lossy(&size_line);
        let digits = text.split(';').next().unwrap_or_default().trim();
        // from_str_radix takes a sign too.
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let size = u64::from_str_radix(digits, 16).ok().filter(|size| plain && *size < 1 << 48);
        let size = size.ok_or_else(|| bad("a chunk has no size"))?;
        writer.write_all(&size_line)?;
        if size == 0 {
            break;
        }
        exactly(reader, writer, size + 2)?;
    }
    let mut left = HEAD;
    loop {
        let mut trailer = Vec::new();
        left -= line(reader, left, &mut trailer)?;
        writer.write_all(&trailer)?;
        match trailer.as_slice() {
            b"" => return Err(io::ErrorKind::UnexpectedEof.into()),
            b"\r\n" | b"\n" => return Ok(()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_says_and_what_follows_stays() {
        let table: [(&[u8], Body, &[u8]); 4] = [
            (b"abcREST", Body::Length(3), b"abc"),
            (b"3;x=y\r\nabc\r\n0\r\n\r\nREST", Body::Chunked, b"3;x=y\r\nabc\r\n0\r\n\r\n"),
            (b"0\r\nA: b\r\n\r\nREST", Body::Chunked, b"0\r\nA: b\r\n\r\n"),
            (b"REST", Body::Empty, b""),
        ];
        for (input, body, expected) in table {
            let (mut reader, mut out) = (input, Vec::new());
            copy(&mut reader, &mut out, body).unwrap();
            assert_eq!((out.as_slice(), reader), (expected, &b"REST"[..]));
        }
        for bad in [
            &b"-1\r\nx"[..],
            b"zz\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"3\r\nab",
            b"ffffffffffffffff\r\n",
            b"0\r\nA: b\r\n",
        ] {
            assert!(copy(&mut &bad[..], &mut Vec::new(), Body::Chunked).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_head_that_never_ends_is_cut_off() {
        let long = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(20_000)].concat();
        assert!(head(&mut &long[..]).is_err());
        assert!(head(&mut &vec![b'x'; 1 << 20][..]).is_err());
        assert_eq!(head(&mut &b"\r\nGET / HTTP/1.1\r\n\r\nmore"[..]).unwrap().unwrap(), b"GET / HTTP/1.1\r\n\r\n");
        assert!(head(&mut &b""[..]).unwrap().is_none());
    }
}
