import CSupport

/// Threads and instruction set of one model's work: what it calls runs with these, whatever the process or another thread sets meanwhile.
struct KernelContext: Sendable {
    let threads: Int
    private let native: hssl_context

    /// The process's instruction set as it is now.
    ///
    /// - Parameter threads: 1 … 256.
    init(threads: Int) { self.init(threads: threads, isa: hssl_isa_selected()) }

    init(threads: Int, isa: hssl_isa) {
        self.threads = threads
        native = hssl_context(threads: Int32(threads), isa: isa)
    }

    /// Runs `body` on this thread in the context.
    func run<T>(_ body: () throws -> T) rethrows -> T {
        try withUnsafePointer(to: native) { context in
            let outer = hssl_context_enter(context)
            defer { hssl_context_leave(outer) }
            return try body()
        }
    }
}
