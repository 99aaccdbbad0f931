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
                // The windows that a chain begins with move while it runs; `x` alone follows them.
                let windows = steps[begin].isUnfold ? steps[begin].y.storage : nil
                while end < steps.count, steps[end].grid == nil, steps[end].size[0] == steps[begin].rows,
                    let access = steps[end].rowAccess, agrees(access, with: known),
                    access.allSatisfy({ $0.storage != grid }),
                    windows == nil || ![steps[end].residual.storage, steps[end].y.storage].contains(windows)
                {
                    add(access, to: &known)
                    end += 1
                }
                // Nor does it keep them for others.
                if let windows, steps[end...].contains(where: { $0.touches(windows) }) { end = begin + 1 }
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

extension Operand {
    /// Its storage in the arena; nil where it is elsewhere.
    fileprivate var storage: Int? { if case .arena(let storage, _) = self { storage } else { nil } }
}

extension PlanStep {
    fileprivate func touches(_ storage: Int) -> Bool {
        operands.contains { $0.storage == storage }
    }

    fileprivate var isUnfold: Bool {
        [
            HSSL_STEP_UNFOLD_IMAGE, HSSL_STEP_UNFOLD_IMAGE_QUANTIZE, HSSL_STEP_UNFOLD, HSSL_STEP_UNFOLD_QUANTIZE,
            HSSL_STEP_UNFOLD_CODES,
        ].contains(kind)
    }

    /// The storage that windows are taken of, −1 where that is the image; nil for other steps.
    fileprivate var grid: Int? { isUnfold ? x.storage ?? -1 : nil }

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
