#if canImport(Glibc)
    import Glibc
#endif

/// 64-byte-aligned memory for the life of a model or a session. Sendable: a model's is written before anyone else sees
/// it, a session's is its own.
final class AlignedMemory: @unchecked Sendable {
    let pointer: UnsafeMutableRawPointer

    /// - Parameter isFilled: all of it will be written at once. Then the kernel may give pages of 2 MB where they are
    ///   whole: a page fault every 4 KB costs as much as packing what goes there, and products walk through the weights
    ///   with fewer misses of the TLB.
    init(byteCount: Int, isFilled: Bool = false) throws {
        let isLarge = isFilled && byteCount >= Self.largePage
        var raw: UnsafeMutableRawPointer?
        guard posix_memalign(&raw, isLarge ? Self.largePage : 64, max(byteCount, 64)) == 0, let raw else {
            throw RuntimeError("out of memory: \(byteCount) bytes for the model")
        }
        pointer = raw
        // Whole pages only: the rest of the last one would cost memory. Without such pages this fails, and nothing is
        // lost.
        if isLarge { madvise(raw, byteCount / Self.largePage * Self.largePage, MADV_HUGEPAGE) }
    }

    /// x86-64, and arm64 with pages of 4 KB.
    private static let largePage = 2 << 20

    deinit { free(pointer) }
}
