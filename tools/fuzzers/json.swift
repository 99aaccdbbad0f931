// libFuzzer target: whatever is accepted must survive writing and parsing again.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard let value = try? JSONValue.parse(bytes: Array(UnsafeBufferPointer(start: data, count: size))) else {
        return 0
    }
    guard let again = try? JSONValue.parse(bytes: value.bytes(keys: .sorted, indent: 1)) else {
        preconditionFailure("unreadable")
    }
    precondition(again == value)
    return 0
}
