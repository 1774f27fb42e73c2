// SPDX-License-Identifier: MIT
// server.mjs: the benchmark's server with node:net. It echoes and counts, as system.h asks of every server.
//
//     node server.mjs SOCKET PATTERN SPOIL_AT
//
// system_node.c reads the standard output. A line says "ready"; later ones say "sunk COUNT BAD" and are answered by a
// line on the standard input: the counts must lie on the benchmark's board before the echo that lets the client look
// there. Only the end of a stream waits for that.
import fs from "node:fs";
import net from "node:net";
import { SINK, FrameReader, fail, isFrame, kindOf, loadPattern, spoil } from "./message.mjs";

const BACKLOG = 4096;

const [path, patternPath, spoilAt] = process.argv.slice(2);
const spoilAtEcho = Number(spoilAt);
let echoed = 0;
let sunk = 0;
let sunkBad = 0;
let reported = 0;

loadPattern(patternPath);

function report() {
    fs.writeSync(1, `sunk ${sunk} ${sunkBad}\n`);
    if (fs.readSync(0, Buffer.alloc(1)) === 0)
        process.exit(0); // the benchmark has gone
    reported = sunk;
}

function take(socket, frame) {
    if (kindOf(frame) === SINK) {
        if (!isFrame(frame, frame.length - 4, SINK, 0, sunk))
            sunkBad++;
        sunk++;
        return;
    }
    if (sunk !== reported)
        report();
    if (++echoed === spoilAtEcho)
        spoil(frame, (frame.length - 4) >> 1);
    socket.write(frame);
}

// All replies to one chunk leave with one system call.
function serve(socket) {
    const reader = new FrameReader((frame) => take(socket, frame));
    socket.on("data", (chunk) => {
        socket.cork();
        reader.push(chunk);
        socket.uncork();
    });
    socket.on("error", () => socket.destroy()); // it has left in the middle of a reply
}

const server = net.createServer(serve);
server.on("error", (error) => fail(error.message));
server.listen({ path, backlog: BACKLOG }, () => fs.writeSync(1, "ready\n"));
