// SPDX-License-Identifier: Apache-2.0
//! How messages become bytes, and what memory a stream of them keeps.
//!
//! A connection is monitored by a stream that lives as long as it does and says little: the buffers of 8 KiB that
//! gRPC reserves for either end of every call would be most of what a connection weighs. Here a buffer is as large as
//! the largest message that has gone through it.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// What a buffer has at first: the head of a message, and the whole of a small one.
const AT_FIRST: usize = 64;

/// How much may wait in a buffer before it is sent, as gRPC has it by default.
const AT_MOST: usize = 32 * 1024;

fn settings() -> BufferSettings {
    BufferSettings::new(AT_FIRST, AT_MOST)
}

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
    type Decoder = Whole<U>;

    fn encoder(&mut self) -> Exact<T> {
        Exact(PhantomData)
    }

    fn decoder(&mut self) -> Whole<U> {
        Whole(PhantomData)
    }
}

/// The same for a call whose question is bytes already, so that the caller may keep the message it made them of.
#[derive(Clone, Debug)]
pub struct Packed<U>(PhantomData<U>);

impl<U> Default for Packed<U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<U> tonic::codec::Codec for Packed<U>
where
    U: Message + Default + Send + 'static,
{
    type Encode = Bytes;
    type Decode = U;
    type Encoder = AsItIs;
    type Decoder = Whole<U>;

    fn encoder(&mut self) -> AsItIs {
        AsItIs
    }

    fn decoder(&mut self) -> Whole<U> {
        Whole(PhantomData)
    }
}

/// Makes room for exactly a message before it writes it.
#[derive(Clone, Debug)]
pub struct Exact<T>(PhantomData<T>);

impl<T: Message> Encoder for Exact<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        // What `Message::encode` does besides is to measure the message again.
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

/// Writes what is a message already.
#[derive(Clone, Debug)]
pub struct AsItIs;

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.len());
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

/// Reads a message that lies in one piece in half the time that one in several takes.
#[derive(Clone, Debug)]
pub struct Whole<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for Whole<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let length = buffer.remaining();
        let read = if buffer.chunk().len() == length {
            let read = U::decode(buffer.chunk());
            buffer.advance(length);
            read
        } else {
            U::decode(buffer)
        };
        read.map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
