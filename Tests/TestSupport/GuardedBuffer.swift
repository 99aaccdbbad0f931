import CSupport
import Foundation

/// Unmaps a guarded mapping once 32 others have been given up after it. Optimised code ends an object at its last use,
/// which may be where a kernel's arguments are made: the kernel then still works on the mapping.
public func giveUpMapping(_ mapping: UnsafeMutableRawPointer, byteCount: Int) {
    lock.lock()
    defer { lock.unlock() }
    givenUp.append((mapping, byteCount))
    if givenUp.count > 32 {
        let oldest = givenUp.removeFirst()
        munmap(oldest.mapping, oldest.byteCount)
    }
}
private let lock = NSLock()
nonisolated(unsafe) private var givenUp: [(mapping: UnsafeMutableRawPointer, byteCount: Int)] = []

/// A typed buffer whose last element ends at an inaccessible page: an overread or overwrite of one byte ends the test
/// process.
///
/// One mapping serves every case of a test: `tail(n)` is the last `n` elements.
public final class GuardedBuffer<Element> {
    public let capacity: Int
    private let mapping: UnsafeMutableRawPointer
    private let mappedBytes: Int
    private let end: UnsafeMutableRawPointer

    public init(capacity: Int) {
        let page = 4096
        let bytes = (max(capacity, 1) * MemoryLayout<Element>.stride + page - 1) / page * page
        guard let mapping = mmap(nil, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
              mapping != MAP_FAILED,
            mprotect(mapping + bytes, page, PROT_NONE) == 0
        else { fatalError("no guarded mapping of \(bytes) bytes") }
        self.capacity = capacity
        self.mapping = mapping
        mappedBytes = bytes + page
        end = mapping + bytes
    }

    deinit { giveUpMapping(mapping, byteCount: mappedBytes) }

    /// The last `count` elements, up to the guard page.
    public func tail(_ count: Int) -> UnsafeMutablePointer<Element> {
        precondition(count <= capacity, "\(count) elements of \(capacity)")
        return (end - count * MemoryLayout<Element>.stride).assumingMemoryBound(to: Element.self)
    }
}

/// The instruction-set rows that this machine can run, scalar first.
public func supportedInstructionSets() -> [hssl_isa] {
    (0..<UInt32(HSSL_ISA_COUNT.rawValue)).map { hssl_isa(rawValue: $0) }.filter(hssl_isa_supported)
}

/// Runs `body` once an instruction-set row and restores the selection.
public func withEachInstructionSet(_ body: (_ name: String) throws -> Void) rethrows {
    let selected = hssl_isa_selected()
    defer { _ = hssl_isa_select(selected) }
    for isa in supportedInstructionSets() where hssl_isa_select(isa) {
        try body(String(cString: hssl_isa_name(isa)))
    }
}
