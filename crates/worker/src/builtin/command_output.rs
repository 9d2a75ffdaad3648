use std::io;
use std::time::Duration;

use bytes::Bytes;
use domain::limits::MAX_OUTPUT_BYTES;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

/// Room for the line that tells how much is missing.
const MARK_BYTES: usize = 64;
/// How long to wait for the pipe's end when the program and its group are gone: somebody who left
/// the group may still hold it.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What a program writes, up to 64 KiB; the rest is read and counted, so that the program never
/// waits for a reader.
pub(super) struct CommandOutput {
    pipe: Receiver,
    kept: Vec<u8>,
    cut: u64,
    ended: bool,
}

impl CommandOutput {
    pub(super) fn new(pipe: Receiver) -> Self {
        Self {
            pipe,
            kept: Vec::new(),
            cut: 0,
            ended: false,
        }
    }

    /// Reads until the pipe ends. May be dropped and called again.
    pub(super) async fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8 << 10];
        while !self.ended {
            let count = self.pipe.read(&mut chunk).await?;
            self.ended = count == 0;
            let room = (MAX_OUTPUT_BYTES - MARK_BYTES).saturating_sub(self.kept.len());
            let (kept, cut) = chunk[..count].split_at(count.min(room));
            self.kept.extend_from_slice(kept);
            self.cut += cut.len() as u64;
        }
        Ok(())
    }

    /// Reads what is left when the program is gone, and gives all of it, marked if it was cut.
    pub(super) async fn finish(mut self) -> Bytes {
        // Either way what was read counts.
        let _ = timeout(END_WITHIN, self.read()).await;
        if self.cut > 0 {
            let mark = format!("\n[cut: {} bytes more]\n", self.cut);
            self.kept.extend_from_slice(mark.as_bytes());
        }
        self.kept.into()
    }
}
