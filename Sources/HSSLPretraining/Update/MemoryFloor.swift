import CSupport
import HSSLGraph

/// What training keeps whatever the micro-batch: weights, their gradients and moments. Known from shapes, so that what
/// can never fit under a limit is refused before any memory is asked for; `MicroBatchPlan` measures the rest.
package struct MemoryFloor {
    package private(set) var bytes = 0
    /// Bytes up to which a look at one image is no harm.
    private static let small = 32 << 20

    package init() {}

    /// Adds a network that learns, and what follows it.
    package mutating func add(student: ParameterSet, teacher: ParameterSet?, storage: MomentStorage) {
        let float = MemoryLayout<Float>.stride
        bytes += float * (2 * student.count + (teacher?.count ?? 0))
        bytes += student.all.reduce(0) { $0 + AdamW.momentBytes($1, storage: storage) }
    }

    /// - Parameters:
    ///   - owed: bytes of earlier parts that will be asked for later.
    ///   - limit: most resident memory of the process; nil: any.
    /// - Throws: `PretrainingError` when the process would have more than `limit` with this beside what it has. Of a
    ///   small network it is better to learn from one image what exactly would do, though that goes over the limit.
    package func check(owed: Int = 0, limit: Int?) throws {
        let needed = Int(hssl_present_rss()) + owed + bytes
        guard let limit, needed > limit, bytes > Self.small else { return }
        throw PretrainingError(
            Self.refusal(of: limit, "this recipe", needs: needed) + " for weights, gradients and moments alone")
    }

    /// What is said of a limit under which something cannot work.
    package static func refusal(of limit: Int, _ what: String, needs least: Int) -> String {
        // Rounded down, so that it never reads as large as what is needed.
        let given = limit < 1 << 20 ? "\(limit) bytes are" : "\(limit >> 20)M is"
        return "--memory-limit: \(given) too little; \(what) needs at least \(megabytes(least))"
    }

    /// As `--memory-limit` takes it, rounded up.
    package static func megabytes(_ bytes: Int) -> String { "\((bytes + (1 << 20) - 1) >> 20)M" }
}
