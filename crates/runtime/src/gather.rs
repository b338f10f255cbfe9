//! A stream that gathers what is written and sends it in one go: a gRPC answer is three frames, its headers, its message
//! and its trailers, and HTTP/2 libraries hand each to the system by itself.
//!
//! Each hand-over costs as much as a short search, and wakes the other side for a part that it can do nothing with. A
//! flush therefore waits for one more look of the connection's task, which is asked for at once: what that look adds goes
//! along, and when it adds nothing, everything goes. Absent: waiting for time to pass, as Nagle's algorithm does.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// A client's channel whose requests go out in one piece each, and not their headers, message and end by themselves.
///
/// # Errors
/// Those of [`Endpoint::connect`].
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(|uri: Uri| async move {
        // Nothing secret goes in the clear to who asked for more.
        if uri.scheme_str() != Some("http") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
        stream.set_nodelay(true)?;
        io::Result::Ok(TokioIo::new(Gathered::new(stream)))
    });
    endpoint.connect_with_connector(connector).await
}

/// The same to a Unix domain socket, whatever the endpoint says of where to.
///
/// # Errors
/// Those of [`Endpoint::connect`].
pub async fn connect_socket(endpoint: &Endpoint, path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { io::Result::Ok(TokioIo::new(Gathered::new(UnixStream::connect(path).await?))) }
    });
    endpoint.connect_with_connector(connector).await
}

/// What is gathered at most; more goes out without waiting.
const GATHERED_BYTES_MAX: usize = 32 << 10;

/// A stream whose small writes go out together. Its owner must flush it each time that it is polled, as connections of
/// hyper do, and shut it down at the end.
pub struct Gathered<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it has gone out.
    sent: usize,
    /// Whether something was written since the last flush.
    fresh: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Gathers what is written to `stream`, which must not wait on its own (`TCP_NODELAY`).
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            sent: 0,
            fresh: false,
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let left = &self.gathered[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.gathered.len() + length > GATHERED_BYTES_MAX {
            ready!(self.poll_send(context))?;
            if length > GATHERED_BYTES_MAX {
                return Pin::new(&mut self.stream).poll_write_vectored(context, parts);
            }
        }
        parts.iter().for_each(|part| self.gathered.extend_from_slice(part));
        self.fresh = true;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at a time, after being asked twice each time.
    struct Recorder {
        writes: Vec<Vec<u8>>,
        at_a_time: usize,
        asked: usize,
        is_shut: bool,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.asked += 1;
            if self.at_a_time < usize::MAX && self.asked % 2 == 1 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.at_a_time);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(at_a_time: usize) -> Gathered<Recorder> {
        Gathered::new(Recorder {
            writes: Vec::new(),
            at_a_time,
            asked: 0,
            is_shut: false,
        })
    }

    /// As a connection does: whatever is there to be written, and a flush after each part.
    fn look(stream: &mut Gathered<Recorder>, parts: &[&[u8]]) {
        let mut context = Context::from_waker(Waker::noop());
        for part in parts {
            let mut left = *part;
            while !left.is_empty() {
                if let Poll::Ready(taken) = Pin::new(&mut *stream).poll_write(&mut context, left) {
                    left = &left[taken.unwrap()..];
                }
            }
            let _ = Pin::new(&mut *stream).poll_flush(&mut context);
        }
        let _ = Pin::new(&mut *stream).poll_flush(&mut context);
    }

    #[test]
    fn frames_that_are_flushed_one_by_one_go_out_together() {
        let mut stream = gathered(usize::MAX);
        let mut context = Context::from_waker(Waker::noop());
        for part in [&b"headers "[..], b"message ", b"trailers"] {
            let written = Pin::new(&mut stream).poll_write(&mut context, part);
            assert!(matches!(written, Poll::Ready(Ok(8))));
            assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        }
        assert!(stream.stream.writes.is_empty(), "went out before the next look");
        look(&mut stream, &[]);
        assert_eq!(stream.stream.writes, [b"headers message trailers"]);
    }

    #[test]
    fn a_flush_that_waits_asks_for_another_look() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let woken = std::sync::Arc::new(Woken(false.into()));
        let waker = woken.clone().into();
        let mut context = Context::from_waker(&waker);
        let mut stream = gathered(usize::MAX);
        assert!(Pin::new(&mut stream).poll_write(&mut context, b"ping").is_ready());
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        assert!(
            woken.0.load(std::sync::atomic::Ordering::SeqCst),
            "nobody would ever send it"
        );
    }

    #[test]
    fn nothing_is_lost_or_reordered_by_a_slow_stream_and_a_shutdown_sends_the_rest() {
        let all: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        for part in [1, 7, 1_000, 40_000] {
            let mut stream = gathered(3_000);
            for parts in all.chunks(part * 3) {
                look(&mut stream, &parts.chunks(part).collect::<Vec<_>>());
            }
            let mut context = Context::from_waker(Waker::noop());
            while Pin::new(&mut stream).poll_shutdown(&mut context).is_pending() {}
            assert!(stream.stream.is_shut);
            assert!(stream.stream.writes.concat() == all, "parts of {part} bytes");
        }
    }

    #[test]
    fn much_at_once_is_not_gathered() {
        let mut stream = gathered(usize::MAX);
        let mut context = Context::from_waker(Waker::noop());
        let large = vec![1; GATHERED_BYTES_MAX + 1];
        assert!(Pin::new(&mut stream).poll_write(&mut context, b"headers").is_ready());
        assert!(Pin::new(&mut stream).poll_write(&mut context, &large).is_ready());
        assert_eq!(stream.stream.writes.concat().len(), large.len() + 7);
    }
}
