/// Which cells of a micro-batch's global views have a patch target; cells are numbered view · N + cell, views
/// view-major.
struct TokenSelection {
    /// The masked ones (plain evaluation: all).
    let cells: [Int32]
    /// 1/max(1, masked cells of the view) for a masked cell, else 0.
    let weights: [Float]

    /// - Parameters:
    ///   - masks: view-major [views · N]; empty where the objective masks nothing.
    ///   - count: cells N of a view.
    init(masks: [UInt8], cells count: Int, plain: Bool) {
        var cells: [Int32] = [], weights: [Float] = []
        for first in stride(from: 0, to: masks.count, by: max(1, count)) {
            let masked = masks[first..<first + count].reduce(0) { $0 + ($1 != 0 ? 1 : 0) }
            for cell in first..<first + count where masks[cell] != 0 || plain {
                cells.append(Int32(cell))
                weights.append(masks[cell] != 0 ? 1 / Float(max(1, masked)) : 0)
            }
        }
        (self.cells, self.weights) = (cells, weights)
    }
}
