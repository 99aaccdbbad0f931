import CSupport

/// Finds the steps through which a thread may take its rows without meeting the others (`hssl_plan_step.chain`).
///
/// In a ViT everything from one attention to the next is such a chain. One may begin with the windows of a grid, which
/// nothing in the chain touches: a row of windows then reads more than a row, but only of what is there already.
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
                let grid = steps[begin].grid
                while end < steps.count, steps[end].grid == nil, steps[end].size[0] == steps[begin].rows,
                    let access = steps[end].rowAccess, agrees(access, with: known),
                    access.allSatisfy({ $0.storage != grid })
                {
                    add(access, to: &known)
                    end += 1
                }
                // A chain does not keep the windows that it begins with.
                if steps[begin].isUnfold, case .arena(let windows, _) = steps[begin].y,
                    steps[end...].contains(where: { $0.touches(windows) })
                {
                    end = begin + 1
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
    fileprivate func touches(_ storage: Int) -> Bool {
        operands.contains { if case .arena(storage, _) = $0 { true } else { false } }
    }

    fileprivate var isUnfold: Bool {
        [
            HSSL_STEP_UNFOLD_IMAGE, HSSL_STEP_UNFOLD_IMAGE_QUANTIZE, HSSL_STEP_UNFOLD, HSSL_STEP_UNFOLD_QUANTIZE,
            HSSL_STEP_UNFOLD_CODES,
        ].contains(kind)
    }

    /// The storage that windows are taken of, −1 where that is the image; nil for other steps.
    fileprivate var grid: Int? {
        guard isUnfold else { return nil }
        return if case .arena(let storage, _) = x { storage } else { -1 }
    }

    fileprivate var rows: Int {
        guard isUnfold else { return size[0] }
        let isImage = kind == HSSL_STEP_UNFOLD_IMAGE || kind == HSSL_STEP_UNFOLD_IMAGE_QUANTIZE
        let (sides, kernel, stride, padding) = (isImage ? size[1...2] : size[0...1], size[3], size[4], size[5])
        return sides.reduce(1) { $0 * (($1 + 2 * padding - kernel) / stride + 1) }
    }

    /// Where a step that treats each row alone keeps row 0 in the arena; nil for other steps.
    fileprivate var rowAccess: [(storage: Int, row: RowChains.Row)]? {
        guard yPitch > 0 else { return nil }
        let input = isUnfold ? Operand.none : x, scales = isUnfold ? Operand.none : xScale
        return [(input, xPitch), (scales, 4), (residual, residualPitch), (y, yPitch), (yScale, 4)].compactMap {
            operand, pitch in
            if case .arena(let storage, let offset) = operand {
                (storage, RowChains.Row(offset: offset, pitch: pitch))
            } else {
                nil
            }
        }
    }
}
