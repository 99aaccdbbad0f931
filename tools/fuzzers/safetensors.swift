// libFuzzer target: the first byte chooses how many data bytes the file is said to have, the rest is a header.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard size > 0 else { return 0 }
    let text = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: size - 1)
    _ = text.initialize(from: UnsafeBufferPointer(start: data + 1, count: size - 1))
    if size == 1 {
        text.deallocate()
        return 0
    }
    guard let header = try? SafetensorsHeader(takingOver: text, dataBytes: Int(data[0])) else { return 0 }
    if let metadata = try? header.metadata() {
        for (key, value) in metadata { precondition(header.metadataValue(key) == value) }
    }
    var covered = 0
    for (index, entry) in header.entries.enumerated() {
        precondition(entry.dtype.bytes(header.shape(of: entry).reduce(1, *)) == entry.end - entry.begin)
        precondition(entry.begin == covered)
        precondition(header.index(of: header.name(of: entry)) == index)
        covered = entry.end
    }
    precondition(covered == Int(data[0]))
    return 0
}
