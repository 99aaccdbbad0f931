/// Flags of a coarse grid for every cell of a finer one: a cell of the coarse grid covers stride × stride cells.
///
/// - Parameter mask: [B · coarse.count], 1 where masked.
/// - Returns: [B · fine.count].
func spread(_ mask: [UInt8], _ coarse: Grid, by stride: Int, over fine: Grid) -> [UInt8] {
    guard stride > 1 else { return mask }
    var result: [UInt8] = []
    let samples = mask.count / coarse.count
    result.reserveCapacity(samples * fine.count)
    for sample in 0..<samples {
        for i in 0..<fine.height {
            for j in 0..<fine.width {
                result.append(mask[sample * coarse.count + i / stride * coarse.width + j / stride])
            }
        }
    }
    return result
}
