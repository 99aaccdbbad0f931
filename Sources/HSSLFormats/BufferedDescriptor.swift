/// Bytes on their way into an open file: small pieces are gathered. Results are 0 or −errno.
struct BufferedDescriptor {
    let descriptor: Int32
    /// Bytes written so far, gathered ones among them.
    private(set) var count: Int
    private let calls: SystemCalls
    private var pending: [UInt8] = []
    private static let pendingLimit = 1 << 16

    /// - Parameter count: bytes that the file holds already, before its position.
    init(_ descriptor: Int32, count: Int = 0, calls: SystemCalls) {
        (self.descriptor, self.count, self.calls) = (descriptor, count, calls)
    }

    mutating func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        count += bytes.count
        if pending.count + bytes.count <= Self.pendingLimit {
            pending.append(contentsOf: bytes)
            return 0
        }
        let result = flush()
        return result < 0 ? result : writeAll(bytes) { part, _ in calls.write(descriptor, part) }
    }

    mutating func flush() -> Int {
        let result = pending.withUnsafeBytes { bytes in
            writeAll(bytes) { part, _ in calls.write(descriptor, part) }
        }
        pending.removeAll(keepingCapacity: true)
        return result
    }

    /// Replaces bytes that were written before.
    mutating func overwrite(_ bytes: [UInt8], at offset: Int) -> Int {
        precondition(offset >= 0 && offset + bytes.count <= count, "overwrite reaches only what was written")
        let result = flush()
        if result < 0 { return result }
        return bytes.withUnsafeBytes { bytes in
            writeAll(bytes) { part, done in calls.writeAt(descriptor, part, offset + done) }
        }
    }

    mutating func synchronize() -> Int {
        let result = flush()
        return result < 0 ? result : retryingInterrupts { calls.synchronize(descriptor) }
    }

    /// In place: a copy of this value would copy what is gathered with the next write.
    mutating func perform(_ body: (inout BufferedDescriptor) -> Int) -> Int { body(&self) }
}
