/// Which token rows of a micro-batch's global crops enter which projection; rows of [2·images, 1+N].
struct TokenSelection {
    /// CLS row of every crop.
    let clsRows: [Int32]
    /// All patch rows.
    let allPatchRows: [Int32]
    /// Patch rows with a target: the masked ones (plain evaluation: all).
    let patchRows: [Int32]
    /// The same, as places in `allPatchRows`.
    let patchOfGrid: [Int32]
    /// 1/max(1, masked patches of the crop) for a masked patch, else 0; same order as `patchRows`.
    let patchWeights: [Float]

    /// - Parameter masks: view-major [2·images · N].
    init(batch: CropBatch, masks: [UInt8], plain: Bool) {
        let tokens = batch.tokens
        let crops = CropBatch.globalViews * batch.images
        var clsRows: [Int32] = [], all: [Int32] = [], selected: [Int32] = [], places: [Int32] = [], weights: [Float] = []
        for crop in 0..<crops {
            clsRows.append(Int32(crop * (tokens + 1)))
            let mask = masks[crop * tokens..<(crop + 1) * tokens]
            let masked = mask.reduce(0) { $0 + ($1 != 0 ? 1 : 0) }
            let weight = 1 / Float(max(1, masked))
            for token in 0..<tokens {
                let row = Int32(crop * (tokens + 1) + 1 + token)
                let isMasked = mask[mask.startIndex + token] != 0
                all.append(row)
                if isMasked || plain {
                    selected.append(row)
                    places.append(Int32(crop * tokens + token))
                    weights.append(isMasked ? weight : 0)
                }
            }
        }
        (self.clsRows, allPatchRows, patchRows, patchOfGrid, patchWeights) = (clsRows, all, selected, places, weights)
    }
}
