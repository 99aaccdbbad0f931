/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4), computed piece by piece, eight bytes a step.
package struct CRC32C: Sendable {
    private var state: UInt32 = ~0

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) {
        update(bytes)
    }

    /// The checksum of all bytes so far.
    package var value: UInt32 { ~state }

    /// Eight lower-case hexadecimal digits, as in `hssl.crc32c`.
    package var hexadecimal: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        let tables = Self.tables
        var crc = state
        var offset = 0
        while offset &+ 8 <= bytes.count {
            let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) ^ UInt64(crc)
            let low = UInt32(truncatingIfNeeded: word)
            let high = UInt32(truncatingIfNeeded: word >> 32)
            let a = tables[1792 &+ Int(low & 0xff)] ^ tables[1536 &+ Int((low >> 8) & 0xff)]
            let b = tables[1280 &+ Int((low >> 16) & 0xff)] ^ tables[1024 &+ Int(low >> 24)]
            let c = tables[768 &+ Int(high & 0xff)] ^ tables[512 &+ Int((high >> 8) & 0xff)]
            let d = tables[256 &+ Int((high >> 16) & 0xff)] ^ tables[Int(high >> 24)]
            crc = (a ^ b) ^ (c ^ d)
            offset &+= 8
        }
        while offset < bytes.count {
            crc = (crc >> 8) ^ tables[Int((crc ^ UInt32(base.load(fromByteOffset: offset, as: UInt8.self))) & 0xff)]
            offset &+= 1
        }
        state = crc
    }

    /// Row j (256 entries) advances a byte past j further zero bytes. Written once, then only read: hence safe to share.
    private nonisolated(unsafe) static let tables: UnsafePointer<UInt32> = {
        let table = UnsafeMutablePointer<UInt32>.allocate(capacity: 8 * 256)
        for byte in 0..<256 {
            var crc = UInt32(byte)
            for _ in 0..<8 { crc = (crc >> 1) ^ (crc & 1 == 1 ? 0x82F6_3B78 : 0) }
            table[byte] = crc
        }
        for index in 256..<8 * 256 {
            let crc = table[index - 256]
            table[index] = (crc >> 8) ^ table[Int(crc & 0xff)]
        }
        return UnsafePointer(table)
    }()
}
