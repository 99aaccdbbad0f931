import CSupport
#if canImport(Glibc)
import Glibc
#endif

/// The CPU that kernels run on.
public enum Processor {
    /// Bytes of this machine's memory.
    package static let physicalMemory = sysconf(Int32(_SC_PHYS_PAGES)) * Int(getpagesize())

    /// Detects the CPU and takes its best instruction set, or the one that the environment variable `HSSL_ISA` names.
    ///
    /// Whoever opens a model or starts a run calls it; later calls repeat the first answer at no cost.
    ///
    /// - Throws: ``ProcessorError`` where `HSSL_ISA` names no instruction set, or one that this machine or build lacks.
    public static func initialize() throws(ProcessorError) {
        var message = [CChar](repeating: 0, count: 256)
        guard hssl_initialize(&message, message.count) == 0 else {
            throw ProcessorError(reason: String(terminated: message))
        }
    }

    /// Name of the instruction set that features depend on: what was begun on one machine may be ended on another that
    /// has the same.
    package static var inferenceSet: String {
        String(cString: hssl_isa_name(hssl_isa_selected()))
    }
}

/// Why kernels cannot run here, in one line.
public struct ProcessorError: Error, Equatable, Sendable, CustomStringConvertible {
    public let reason: String
    public var description: String { reason }
}

extension String {
    /// The text before the first zero of a buffer that C wrote; what is not UTF-8 is replaced.
    package init(terminated buffer: [CChar]) {
        self.init(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
