import CSupport

/// Places the storages of one run in one block, sharing memory between those that are never alive together.
///
/// Greedy by size: the largest first, each at the lowest free offset. Source: Pisarchyk & Lee, "Efficient memory
/// management for deep neural net inference", 2020 (greedy by size for offset calculation).
struct ArenaLayout {
    /// Byte offset of each storage; nil where no step uses it.
    private(set) var offsets: [Int?]
    private(set) var byteCount = 0

    static let alignment = 64

    /// - Parameter chains: steps that run together (`RowChains`): what one of them touches is alive during all of them.
    init(sizes: [Int], steps: [PlanStep], chains: [Range<Int>]) {
        offsets = Array(repeating: nil, count: sizes.count)
        var turns = Array(repeating: 0, count: steps.count)
        for (turn, chain) in chains.enumerated() { for step in chain { turns[step] = turn } }
        let lifetimes = Self.lifetimes(sizes.count, steps).map {
            $0.map { turns[$0.lowerBound]...turns[$0.upperBound] }
        }
        let order = sizes.indices.filter { lifetimes[$0] != nil }.sorted {
            sizes[$0] == sizes[$1] ? $0 < $1 : sizes[$0] > sizes[$1]
        }
        var placed: [(begin: Int, end: Int, lifetime: ClosedRange<Int>)] = []
        for storage in order {
            guard let lifetime = lifetimes[storage] else { continue }
            let size = Self.aligned(sizes[storage])
            var offset = 0
            for other in placed where other.lifetime.overlaps(lifetime) {
                if other.begin >= offset + size { break }
                offset = max(offset, other.end)
            }
            offsets[storage] = offset
            byteCount = max(byteCount, offset + size)
            let position = placed.firstIndex { $0.begin > offset } ?? placed.count
            placed.insert((offset, offset + size, lifetime), at: position)
        }
    }

    /// First and last step that touch each storage.
    static func lifetimes(_ count: Int, _ steps: [PlanStep]) -> [ClosedRange<Int>?] {
        var lifetimes = [ClosedRange<Int>?](repeating: nil, count: count)
        for (index, step) in steps.enumerated() {
            for case .arena(let storage, _) in step.operands {
                lifetimes[storage] = (lifetimes[storage]?.lowerBound ?? index)...index
            }
        }
        return lifetimes
    }

    /// Lets a residual connection write over the operand that ends there: one buffer less, and the sum stays in the
    /// cache lines it came from.
    static func shareResiduals(_ steps: inout [PlanStep], sizes: [Int]) {
        var lifetimes = lifetimes(sizes.count, steps)
        for index in steps.indices {
            let step = steps[index]
            guard case .arena(let source, let sourceOffset) = step.residual,
                case .arena(let target, let targetOffset) = step.y, source != target,
                sourceOffset == targetOffset, sizes[source] == sizes[target], let sourceLife = lifetimes[source],
                let targetLife = lifetimes[target],
                sourceLife.upperBound == index, targetLife.lowerBound == index,
                // A product must not overwrite what it still multiplies, nor a step what it adds last.
                !step.readsBesideResidual(source), !step.kind.isGroupNorm || step.isFloor,
                step.kind != HSSL_STEP_ELEMENTWISE || step.activation == HSSL_PLAN_IDENTITY
            else { continue }
            for later in index..<steps.count { steps[later].replace(storage: target, by: source) }
            lifetimes[source] = sourceLife.lowerBound...targetLife.upperBound
            lifetimes[target] = nil
        }
    }

    static func aligned(_ byteCount: Int) -> Int { (byteCount + alignment - 1) / alignment * alignment }
}

extension PlanStep {
    /// Whether its activations only raise what is below a floor.
    fileprivate var isFloor: Bool {
        [activation, lastActivation].allSatisfy { $0 == HSSL_PLAN_IDENTITY || $0 == HSSL_PLAN_RELU }
    }

    func readsBesideResidual(_ storage: Int) -> Bool {
        [x, xScale, weight, weightScale, bias, workspace].contains {
            if case .arena(storage, _) = $0 { true } else { false }
        }
    }
}
