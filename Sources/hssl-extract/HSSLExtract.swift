@main struct HSSLExtract { static func main() {} }
