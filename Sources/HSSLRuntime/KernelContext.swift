import CSupport
import HSSLGraph

/// Threads and instruction set of one model's work: what it calls runs with these, whatever the process or another
/// thread sets meanwhile.
package struct KernelContext: Sendable {
    package let threads: Int
    private let native: hssl_context

    /// - Parameter threads: 1 … 256.
    package init(threads: Int, isa: hssl_isa) {
        self.threads = threads
        native = hssl_context(threads: Int32(threads), isa: isa)
    }

    /// Initialises the kernels, which must come before anything else.
    ///
    /// - Parameter wanted: 1 … 256; nil: one a processor.
    /// - Throws: `ProcessorError` or `RuntimeError`.
    package static func threads(_ wanted: Int?) throws -> Int {
        try Processor.initialize()
        let count = wanted ?? min(Int(hssl_available_processors()), 256)
        guard (1...256).contains(count) else { throw RuntimeError("threads must be from 1 to 256, not \(count)") }
        return count
    }

    /// Runs `body` on this thread in the context.
    package func run<T>(_ body: () throws -> T) rethrows -> T {
        try withUnsafePointer(to: native) { context in
            let outer = hssl_context_enter(context)
            defer { hssl_context_leave(outer) }
            return try body()
        }
    }
}
