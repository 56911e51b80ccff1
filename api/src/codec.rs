// SPDX-License-Identifier: Apache-2.0
//! How messages become bytes, and what memory a stream of them keeps.
//!
//! A connection is monitored by a stream that lives as long as it does and says little: the buffers of 8 KiB that
//! gRPC reserves for either end of every call would be most of what a connection weighs. Here a buffer is as large as
//! the largest message that has gone through it.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a buffer has at first: the head of a message, and the whole of a small one.
const AT_FIRST: usize = 64;

/// How much may wait in a buffer before it is sent, as gRPC has it by default.
const AT_MOST: usize = 32 * 1024;

/// Protobuf over gRPC. The generated clients and servers use it.
#[derive(Clone, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Exact<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Exact<T> {
        Exact(ProstCodec::<T, U>::raw_encoder(settings()))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(AT_FIRST, AT_MOST)
}

/// Makes room for exactly a message before it writes it.
#[derive(Clone, Debug)]
pub struct Exact<T>(ProstEncoder<T>);

impl<T: Message> Encoder for Exact<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        self.0.encode(item, buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
