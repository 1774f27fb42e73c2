// SPDX-License-Identifier: MIT
// client.mjs: the benchmark's client with node:net, for the workloads of one process.
//
//     node client.mjs SOCKET PATTERN echo|stream CONNECTIONS BYTES SECONDS SPOIL
//
// It connects, warms up, and says "ready" on its standard output; "FIRST\n" on its standard input lets it run (FIRST is
// the sequence of a stream's first message). Then it prints "MESSAGES SECONDS CPU_NS MAX_NS", a line "NS COUNT" for each
// latency that occurred, cut to one part in 128 as histogram.h does, and "end".
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import { performance } from "node:perf_hooks";
import { ECHO, SINK, FrameReader, build, fail, isFrame, loadPattern, spoil } from "./message.mjs";

const WARM_UP_SHARE = 0.1; // as in workloads.c, likewise the two below
const STREAM_BATCH = 64;
const SPOILED_MESSAGE = 100;

const [path, patternPath, workload, ...numbers] = process.argv.slice(2);
const [connections, bytes, seconds, spoilOne] = numbers.map(Number);
const latencies = new Map();
let latencyMax = 0;

function sample(ms) {
    const ns = Math.round(ms * 1e6);
    const step = 2 ** Math.max(0, Math.floor(Math.log2(ns)) - 7); // 128 steps from one power of two to the next
    const key = Math.floor(ns / step) * step;
    latencies.set(key, (latencies.get(key) ?? 0) + 1);
    if (ns > latencyMax)
        latencyMax = ns;
}

async function connect(number, onFrame) {
    const socket = net.connect(path);
    socket.on("error", (error) => fail(error.message));
    socket.on("close", () => fail("the server has closed the connection"));
    await once(socket, "connect");
    const reader = new FrameReader((frame) => onFrame(number, frame));
    socket.on("data", (chunk) => reader.push(chunk));
    return socket;
}

function goLine() {
    fs.writeSync(1, "ready\n");
    const line = Buffer.alloc(32);
    const length = fs.readSync(0, line);
    if (length === 0)
        process.exit(0); // the benchmark has gone
    return Number(line.toString("latin1", 0, length));
}

function cpuNs() {
    const { user, system } = process.cpuUsage();
    return (user + system) * 1000;
}

function finish(messages, ms, cpu) {
    let text = `${messages} ${ms / 1e3} ${cpu} ${latencyMax}\n`;
    for (const [ns, count] of latencies)
        text += `${ns} ${count}\n`;
    text += "end\n";
    for (let rest = Buffer.from(text); rest.length > 0;)
        rest = rest.subarray(fs.writeSync(1, rest));
    process.exit(0);
}

/** One message in flight on each connection: the round trips of a single one, or of many. */
class Echo {
    sockets = [];
    sequence = new Float64Array(connections);
    since = new Float64Array(connections);
    sampling = false;
    end = 0;
    messages = 0;
    ended = 0; // when the first message came after `end`
    cpu = 0;
    idle = connections;
    whenIdle = null;

    send(number) {
        const frame = build(bytes, ECHO, number, ++this.sequence[number]);
        this.since[number] = performance.now();
        this.sockets[number].write(frame);
    }

    receive(number, frame) {
        if (!isFrame(frame, bytes, ECHO, number, this.sequence[number]))
            fail(`message ${this.sequence[number]} of connection ${number} came back with other bytes than it was sent with`);
        const now = performance.now();
        if (this.ended === 0) {
            this.messages++;
            if (this.sampling)
                sample(now - this.since[number]);
            if (now < this.end) {
                this.send(number);
                return;
            }
            this.ended = now;
            this.cpu = cpuNs();
        }
        if (++this.idle === connections)
            this.whenIdle();
    }

    turn(ms) {
        this.messages = this.ended = this.idle = 0;
        this.end = performance.now() + ms;
        for (let i = 0; i < connections; i++)
            this.send(i);
        return new Promise((resolve) => (this.whenIdle = resolve));
    }

    async run() {
        for (let i = 0; i < connections; i++)
            this.sockets.push(await connect(i, (number, frame) => this.receive(number, frame)));
        await this.turn(seconds * 1e3 * WARM_UP_SHARE);
        goLine();
        this.sampling = true;
        const cpu = cpuNs();
        const began = performance.now();
        await this.turn(seconds * 1e3);
        finish(this.messages, this.ended - began, this.cpu - cpu);
    }
}

/** Messages without a reply; an echo at the end comes back behind all of them. */
async function stream() {
    let expected = 0;
    let whenEchoed;
    const socket = await connect(0, (number, frame) => {
        if (!isFrame(frame, bytes, ECHO, 0, expected++))
            fail("the echo behind a stream came back with other bytes than it was sent with");
        whenEchoed();
    });
    const exchange = (sequence) => {
        socket.write(build(bytes, ECHO, 0, sequence));
        return new Promise((resolve) => (whenEchoed = resolve));
    };
    await exchange(0);
    const first = goLine();
    let sequence = first;
    const cpu = cpuNs();
    const began = performance.now();
    while (performance.now() - began < seconds * 1e3) {
        socket.cork();
        for (let i = 0; i < STREAM_BATCH; i++, sequence++) {
            const frame = build(bytes, SINK, 0, sequence);
            if (spoilOne !== 0 && sequence === SPOILED_MESSAGE)
                spoil(frame, bytes - 1);
            socket.write(frame);
        }
        socket.uncork();
        if (socket.writableNeedDrain)
            await once(socket, "drain");
    }
    await exchange(1);
    finish(sequence - first, performance.now() - began, cpuNs() - cpu);
}

loadPattern(patternPath);
await (workload === "echo" ? new Echo().run() : stream());
