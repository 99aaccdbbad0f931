import CSupport

/// Finds the steps through which a thread may take its rows without meeting the others (`hssl_plan_step.chain`).
///
/// In a ViT everything from one attention to the next is such a chain.
enum RowChains {
    /// Consecutive ranges that cover all steps; those of one element are no chain.
    static func ranges(_ steps: [PlanStep]) -> [Range<Int>] {
        var ranges: [Range<Int>] = []
        var begin = 0
        while begin < steps.count {
            var end = begin + 1
            var known: [Int: Row] = [:]
            if let first = steps[begin].rowAccess {
                add(first, to: &known)
                while end < steps.count, steps[end].size[0] == steps[begin].size[0], let access = steps[end].rowAccess,
                    agrees(access, with: known)
                {
                    add(access, to: &known)
                    end += 1
                }
            }
            ranges.append(begin..<end)
            begin = end
        }
        return ranges
    }

    private static func add(_ access: [(storage: Int, row: Row)], to known: inout [Int: Row]) {
        for (storage, row) in access { known[storage] = row }
    }

    /// Row r of a storage is the same bytes in every step that touches it.
    private static func agrees(_ access: [(storage: Int, row: Row)], with known: [Int: Row]) -> Bool {
        access.allSatisfy { known[$0.storage] == nil || known[$0.storage] == $0.row }
    }

    /// Row r is at offset + r · pitch, in bytes.
    struct Row: Equatable {
        let offset, pitch: Int
    }
}

extension PlanStep {
    /// Where a step that treats each row alone keeps row 0 in the arena; nil for other steps.
    fileprivate var rowAccess: [(storage: Int, row: RowChains.Row)]? {
        guard yPitch > 0 else { return nil }
        return [(x, xPitch), (xScale, 4), (residual, residualPitch), (y, yPitch), (yScale, 4)].compactMap {
            operand, pitch in
            if case .arena(let storage, let offset) = operand {
                (storage, RowChains.Row(offset: offset, pitch: pitch))
            } else {
                nil
            }
        }
    }
}
