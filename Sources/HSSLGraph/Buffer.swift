#if canImport(Glibc)
import Glibc
#endif

/// 64-byte-aligned memory that returns to its pool when the last reference goes.
package final class Buffer {
    package let pointer: UnsafeMutableRawPointer
    package let byteCount: Int
    private let pool: BufferPool

    fileprivate init(pointer: UnsafeMutableRawPointer, byteCount: Int, pool: BufferPool) {
        self.pointer = pointer
        self.byteCount = byteCount
        self.pool = pool
    }

    deinit { pool.recycle(pointer, byteCount: byteCount) }

    /// The memory as float32 elements.
    package var floats: UnsafeMutablePointer<Float> { pointer.assumingMemoryBound(to: Float.self) }
    /// The memory as binary16 elements.
    package var halves: UnsafeMutablePointer<UInt16> { pointer.assumingMemoryBound(to: UInt16.self) }
    /// The memory as unsigned bytes (quantised codes).
    package var bytes: UnsafeMutablePointer<UInt8> { pointer.assumingMemoryBound(to: UInt8.self) }

    package func zero() { memset(pointer, 0, byteCount) }
}

/// Recycles buffers by size class, so that a training step after the first asks the system for nothing.
///
/// Fresh pages cost more than the arithmetic on them: a step of small layers would otherwise spend its time in page
/// faults. Not thread-safe: one pool belongs to one recording thread.
public final class BufferPool {
    private var free: [Int: [UnsafeMutableRawPointer]] = [:]
    /// Bytes handed out now.
    public private(set) var bytesInUse = 0
    /// Largest `bytesInUse` since `resetPeak()`.
    public private(set) var peakBytes = 0
    /// Bytes asked from the system, in use or not.
    public private(set) var bytesReserved = 0
    /// Above so many reserved bytes, idle memory goes back to the system before more is asked for: sizes vary from step
    /// to step, and each class would keep what it needed once. Set it before what it should cover is allocated.
    public var reserveLimit = Int.max
    /// Whether parameters keep their packed forms from use to use. Without them a network needs its weights' memory
    /// only once, and packs again for every product; the values are the same. Set it before the first product.
    public var keepsPackedWeights = true
    /// Blocks mapped one by one while there is a limit: the C heap would keep most of what is freed.
    private var mapped: Set<UnsafeMutableRawPointer> = []
    private static let leastMapped = 128 << 10

    public init() {}

    deinit {
        trim()
    }

    /// Uninitialised memory of at least `byteCount` bytes (at least one class unit).
    package func allocate(byteCount: Int) -> Buffer {
        var size = Self.sizeClass(byteCount)
        // Steps differ in what they drop: idle memory of up to twice the size serves before more is asked for.
        let recycled = takeFree(from: &size)
        bytesInUse += size
        peakBytes = max(peakBytes, bytesInUse)
        if let recycled { return Buffer(pointer: recycled, byteCount: size, pool: self) }
        if bytesReserved + size > reserveLimit { trim() }
        guard let pointer = fresh(size) else { fatalError("out of memory: \(size) bytes after \(bytesReserved)") }
        bytesReserved += size
        return Buffer(pointer: pointer, byteCount: size, pool: self)
    }

    /// The smallest idle block of at least `size` and less than twice as much; sets `size` to what it has. Under a
    /// limit only one of that very class: what a step needs must not depend on what lay idle.
    private func takeFree(from size: inout Int) -> UnsafeMutableRawPointer? {
        let bound = reserveLimit < .max ? size + 1 : 2 * size
        var candidate = size
        while candidate < bound {
            if let pointer = free[candidate]?.popLast() {
                size = candidate
                return pointer
            }
            candidate = Self.sizeClass(candidate + 1)
        }
        return nil
    }

    private func fresh(_ size: Int) -> UnsafeMutableRawPointer? {
        if reserveLimit < .max, size >= Self.leastMapped {
            guard let pointer = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                  pointer != MAP_FAILED else {
                return nil
            }
            mapped.insert(pointer)
            return pointer
        }
        var pointer: UnsafeMutableRawPointer?
        return posix_memalign(&pointer, 64, size) == 0 ? pointer : nil
    }

    package func floats(_ count: Int) -> Buffer { allocate(byteCount: count * MemoryLayout<Float>.stride) }

    package func zeros(_ count: Int) -> Buffer {
        let buffer = floats(count)
        buffer.zero()
        return buffer
    }

    public func resetPeak() { peakBytes = bytesInUse }

    /// Returns unused memory to the system.
    public func trim() {
        for (size, pointers) in free {
            for pointer in pointers {
                if mapped.remove(pointer) != nil { munmap(pointer, size) } else { Glibc.free(pointer) }
            }
            bytesReserved -= size * pointers.count
        }
        free.removeAll()
    }

    fileprivate func recycle(_ pointer: UnsafeMutableRawPointer, byteCount: Int) {
        bytesInUse -= byteCount
        free[byteCount, default: []].append(pointer)
    }

    /// Eight classes an octave: at most 12.5 % is wasted, and micro-batches of nearly equal size share memory.
    private static func sizeClass(_ byteCount: Int) -> Int {
        let least = max(byteCount, 256)
        let unit = 1 << max(6, Int.bitWidth - 1 - (least - 1).leadingZeroBitCount - 3)
        return (least + unit - 1) / unit * unit
    }
}
