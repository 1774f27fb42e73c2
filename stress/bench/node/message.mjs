// SPDX-License-Identifier: MIT
// message.mjs: the messages of the benchmark as payload.h and socket.h define them, for both scripts.
//
// A frame is a 4-byte length and a payload. The pattern that every payload is a stretch of comes from a file, which
// system_node.c has written from the same memory that the C systems compare with.
import fs from "node:fs";

export const ECHO = 1;
export const SINK = 2;

const LENGTH_BYTES = 4;
const HEADER_BYTES = 16;
const STARTS = 512; // PAYLOAD_STARTS
const BYTES_MAX = 65536; // PAYLOAD_BYTES_MAX

let pattern;

export function loadPattern(path) {
    pattern = fs.readFileSync(path);
}

export function fail(sentence) {
    fs.writeSync(2, `belfry-bench: node-net: ${sentence}\n`);
    process.exit(1);
}

function stretch(number, sequence) {
    return 8 * ((sequence + number) % STARTS);
}

/** A frame of `bytes` payload, as payload_build() makes it. Sequences stay far below 2^53. */
export function build(bytes, kind, number, sequence) {
    const frame = Buffer.allocUnsafe(LENGTH_BYTES + bytes);
    frame.writeUInt32LE(bytes, 0);
    frame.writeUInt32LE(kind, 4);
    frame.writeUInt32LE(number, 8);
    frame.writeUInt32LE(sequence % 0x100000000, 12);
    frame.writeUInt32LE(Math.floor(sequence / 0x100000000), 16);
    const start = stretch(number, sequence);
    pattern.copy(frame, LENGTH_BYTES + HEADER_BYTES, start, start + bytes - HEADER_BYTES);
    return frame;
}

export function kindOf(frame) {
    return frame.readUInt32LE(4);
}

/** Is this exactly the frame that build() made of these? As payload_is(). */
export function isFrame(frame, bytes, kind, number, sequence) {
    if (frame.length !== LENGTH_BYTES + bytes || frame.readUInt32LE(4) !== kind || frame.readUInt32LE(8) !== number)
        return false;
    if (frame.readUInt32LE(12) + frame.readUInt32LE(16) * 0x100000000 !== sequence)
        return false;
    const start = stretch(number, sequence);
    return frame.compare(pattern, start, start + bytes - HEADER_BYTES, LENGTH_BYTES + HEADER_BYTES) === 0;
}

/** Spoil one bit of the payload. */
export function spoil(frame, at) {
    frame[LENGTH_BYTES + at] ^= 1;
}

/**
 * Cuts the chunks of a socket into frames. A frame that lies in one chunk is handed out where it lies; one that does
 * not is gathered in a buffer of its own.
 */
export class FrameReader {
    #onFrame;
    #gathered = null;
    #have = 0;
    #head = Buffer.alloc(LENGTH_BYTES);
    #headHave = 0;

    constructor(onFrame) {
        this.#onFrame = onFrame;
    }

    push(chunk) {
        let at = 0;
        while (at < chunk.length) {
            if (this.#gathered !== null || this.#headHave > 0 || chunk.length - at < LENGTH_BYTES) {
                at = this.#gather(chunk, at);
                continue;
            }
            const end = at + LENGTH_BYTES + checked(chunk.readUInt32LE(at));
            if (end > chunk.length) {
                at = this.#gather(chunk, at);
                continue;
            }
            this.#onFrame(chunk.subarray(at, end));
            at = end;
        }
    }

    #gather(chunk, from) {
        let at = from;
        if (this.#gathered === null) {
            const copied = chunk.copy(this.#head, this.#headHave, at);
            this.#headHave += copied;
            at += copied;
            if (this.#headHave < LENGTH_BYTES)
                return at;
            this.#gathered = Buffer.allocUnsafe(LENGTH_BYTES + checked(this.#head.readUInt32LE(0)));
            this.#head.copy(this.#gathered);
            this.#have = LENGTH_BYTES;
            this.#headHave = 0;
        }
        const copied = chunk.copy(this.#gathered, this.#have, at);
        this.#have += copied;
        if (this.#have === this.#gathered.length) {
            const frame = this.#gathered;
            this.#gathered = null;
            this.#onFrame(frame);
        }
        return at + copied;
    }
}

function checked(length) {
    if (length > BYTES_MAX)
        fail(`a message of ${length} bytes: the stream is out of step`);
    return length;
}
